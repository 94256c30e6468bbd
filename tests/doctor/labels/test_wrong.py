"""Planted wrong labels are found; sets of which nothing can be said are not blamed."""

from __future__ import annotations

import numpy as np
import pytest
from planted_flips import CLASSES, average_precision, blobs

from cnn_tl.doctor.labels.wrong import WrongLabels, find_wrong_labels


@pytest.mark.parametrize("one_way", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.2])
def test_planted_flips_are_ranked_first_and_their_class_is_suggested(share: float, one_way: bool) -> None:
    planted = blobs(share=share, one_way=one_way)
    found = find_wrong_labels([planted.features], planted.labels, CLASSES, 0)
    wrong = planted.wrong
    assert found.fits == ("ridge", "logistic")
    assert average_precision(found.score, wrong) > 0.98
    assert found.estimated == pytest.approx(wrong.sum(), rel=0.35)
    assert wrong[found.suspect].mean() > 0.95
    assert found.suspect[wrong].mean() > 0.6
    assert (found.suggested[wrong] == planted.truth[wrong]).mean() > 0.95
    assert wrong[found.order[: int(wrong.sum()) // 2]].all()


def test_a_second_backbone_helps() -> None:
    one, other = blobs(apart=0.25, seed=1), blobs(apart=0.25, seed=2)
    singly = find_wrong_labels([one.features], one.labels, CLASSES, 0)
    both = find_wrong_labels([one.features, other.features], one.labels, CLASSES, 0)
    assert average_precision(both.score, one.wrong) > average_precision(singly.score, one.wrong) + 0.05


def test_a_copy_of_a_wrong_label_does_not_vouch_for_it() -> None:
    planted = blobs(share=0.1)
    copies = np.flatnonzero(planted.wrong)
    features = np.concatenate([planted.features, *[planted.features[copies] * 1.0001] * 3])
    labels = np.concatenate([planted.labels, *[planted.labels[copies]] * 3])
    wrong = np.concatenate([planted.wrong, *[planted.wrong[copies]] * 3])
    groups = np.full(len(planted.labels), -1)
    groups[copies] = np.arange(len(copies))
    groups = np.concatenate([groups, *[np.arange(len(copies))] * 3])
    vouched, found = (find_wrong_labels([features], labels, CLASSES, 0, given) for given in (None, groups))
    assert vouched.suspect[wrong].mean() < 0.5
    assert found.suspect[wrong].mean() > 0.6
    assert wrong[found.suspect].mean() > 0.95
    assert average_precision(found.score, wrong) > 0.95


def test_the_nearest_images_that_disagree_are_named() -> None:
    planted = blobs()
    found = find_wrong_labels([planted.features], planted.labels, CLASSES, 0)
    units = planted.features / np.linalg.norm(planted.features, axis=1, keepdims=True)
    for image in found.order[:5].tolist():
        nearest = list(found.nearest[image])
        cosines = units @ units[image]
        others = np.flatnonzero(planted.labels != planted.labels[image])
        assert nearest == others[np.argsort(-cosines[others])][:5].tolist()
    assert set(np.flatnonzero(found.suspect).tolist()) <= found.nearest.keys()


def test_the_same_seed_gives_the_same_ranking() -> None:
    planted = blobs()
    one, other = (find_wrong_labels([planted.features], planted.labels, CLASSES, 5) for _ in range(2))
    np.testing.assert_array_equal(one.score, other.score)


def sound(found: WrongLabels) -> None:
    for values in (found.score, found.probability, found.suggested_probability, found.probabilities):
        assert np.isfinite(values).all()
    assert sorted(found.order.tolist()) == list(range(len(found.given)))
    assert (found.score >= 0).all()
    assert (found.suggested != found.given).all()


@pytest.mark.parametrize("features", [np.ones((100, 16), np.float32), np.zeros((100, 3), np.float32)])
@pytest.mark.parametrize("share", [2, 10])
def test_features_that_tell_nothing_blame_no_image(features: np.ndarray, share: int) -> None:
    found = find_wrong_labels([features], (np.arange(100) % share == 0).astype(np.int64), 2, 0)
    sound(found)
    assert not found.informative
    assert not found.suspect.any()


def test_random_features_blame_no_image() -> None:
    for seed in range(5):
        chance = np.random.default_rng(seed)
        features, labels = chance.normal(size=(200, 32)).astype(np.float32), chance.integers(0, 4, 200)
        found = find_wrong_labels([features], labels, 4, 0)
        sound(found)
        assert not found.suspect.any()


def test_an_image_alone_in_its_class_is_not_blamed_nor_are_two() -> None:
    planted = blobs(share=0.0)
    strange = planted.features[:1] + np.float32(50)
    features = np.concatenate([planted.features, strange, strange * 4, strange * 4])
    labels = np.concatenate([planted.labels, [4, 5, 5]])
    found = find_wrong_labels([features], labels, 6, 0)
    sound(found)
    assert found.score[-3] == 0
    assert not found.suspect[-3:].any()


@pytest.mark.parametrize("given", [[0, 1], [0, 0, 1, 1], [0, 1, 2], [2, 2, 2]])
def test_sets_smaller_than_the_folds(given: list[int]) -> None:
    chance = np.random.default_rng(0)
    found = find_wrong_labels([chance.normal(size=(len(given), 8)).astype(np.float32)], np.array(given), 3, 0)
    sound(found)


def test_one_class_and_a_class_whose_images_are_all_of_another() -> None:
    planted = blobs(share=0.0)
    alone = find_wrong_labels([planted.features], np.zeros(400, np.int64), 1, 0)
    assert not alone.suspect.any()
    assert not alone.score.any()
    labels = np.where(planted.truth == 0, 1, planted.truth)  # no image is of class 0, and half of class 1 is
    sound(find_wrong_labels([planted.features], labels, CLASSES, 0))


def test_many_classes_of_three_images_take_ridge_regression_alone() -> None:
    chance = np.random.default_rng(0)
    labels = np.repeat(np.arange(300), 3)
    centres = chance.normal(size=(300, 96)) * 3
    features = (centres[labels] + chance.normal(size=(900, 96))).astype(np.float32)
    labels[:9:3] = [50, 60, 70]
    found = find_wrong_labels([features], labels, 300, 0)
    sound(found)
    assert found.fits == ("ridge",)
    assert set(found.order[:3].tolist()) == {0, 3, 6}
