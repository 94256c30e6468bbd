"""Confident learning counts what cleanlab counts."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.core.statistics import softmax
from cnn_tl.doctor.labels.confident import best_other, confident_learning, suspects_of, thresholds_of


def probabilities(images: int, classes: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng([seed, 22])
    labels = chance.integers(0, classes, images)
    labels[:classes] = np.arange(classes)
    logits = chance.normal(size=(images, classes))
    logits[np.arange(images), labels] += 1
    return softmax(sharpness * logits), labels


def test_by_hand() -> None:
    found = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    np.testing.assert_allclose(thresholds_of(found, labels), [0.6, 1.6 / 3])
    confident = confident_learning(found, labels)
    assert confident.joint.tolist() == [[2, 1], [1, 1]]
    assert np.flatnonzero(confident.wrong).tolist() == [2, 4]
    assert confident.count == 2


def test_a_class_without_images_is_never_likely() -> None:
    found = np.array([[0.1, 0.1, 0.8], [0.3, 0.6, 0.1]])
    assert confident_learning(found, np.array([0, 1])).joint[:, 2].tolist() == [0, 0, 1]


def test_equal_probabilities_speak_against_no_label() -> None:
    assert confident_learning(np.full((6, 3), 1 / 3), np.arange(6) % 3).count == 0


def test_suspects_are_the_least_likely_as_labelled_whose_other_class_is_not_just_frequent() -> None:
    found = np.array([[0.9, 0.1]] * 8 + [[0.55, 0.45], [0.1, 0.9], [0.95, 0.05]])
    labels = np.array([0] * 7 + [1, 1, 1, 1])
    assert best_other(found, labels).tolist() == [1] * 7 + [0] * 4
    assert confident_learning(found, labels).wrong.tolist() == [False] * 7 + [True, False, False, True]
    assert suspects_of(found, labels).tolist() == [False] * 7 + [True, False, False, True]
    rarer = np.concatenate([labels, np.zeros(60, np.int64)])
    even = np.concatenate([found, np.tile([[0.9, 0.1]], (60, 1))])
    assert confident_learning(even, rarer).wrong[[7, 10]].all()
    assert suspects_of(even, rarer)[[7, 10]].tolist() == [False, True]


@pytest.mark.parametrize(("images", "classes"), [(400, 2), (500, 7), (3_000, 30), (90, 40)])
@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0, 60.0])
def test_counts_and_images_equal_those_of_cleanlab(images: int, classes: int, sharpness: float) -> None:
    count = pytest.importorskip("cleanlab.count", reason="cleanlab is not installed")
    filters = pytest.importorskip("cleanlab.filter")
    for seed in range(3):
        found, labels = probabilities(images, classes, sharpness, seed)
        if seed == 2:  # many ties
            found = np.round(found, 1) + 1e-3
            found /= found.sum(1, keepdims=True)
        confident = confident_learning(found, labels)
        np.testing.assert_array_equal(confident.joint, count.compute_confident_joint(labels, found, calibrate=False))
        assert confident.count == count.num_label_issues(labels, found)
        expected = filters.find_label_issues(
            labels, found, filter_by="confident_learning", min_examples_per_class=0, n_jobs=1
        )
        np.testing.assert_array_equal(confident.wrong, expected)
