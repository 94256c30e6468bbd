"""What a model keeps of held-out images, and the rules that follow."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cnn_tl.abstention.distance_fit import fit_with_held_out
from cnn_tl.abstention.evidence import MOST_IMAGES, Evidence
from cnn_tl.core.errors import UsageError


def made(images: int = 400, classes: int = 3, *, sure: float = 4.0, seed: int = 0) -> Evidence:
    """Return the evidence of images in `classes` clouds, whose logits are right more often the larger `sure` is."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, classes, images)
    features = chance.normal(size=(images, 16)) + 4 * chance.normal(size=(classes, 16))[labels]
    logits = chance.normal(size=(images, classes)) + sure * np.eye(classes)[labels]
    distance, distances = fit_with_held_out(features.astype(np.float32), labels, classes)
    return Evidence.of("training", logits, labels, distances, distance)


def test_it_survives_a_file() -> None:
    first = made()
    again = Evidence.from_arrays(first.arrays(), 3)
    assert again.source == "training"
    assert np.array_equal(again.labels_n, first.labels_n)
    assert again.rule(0.05, 0.02) == replace(first.rule(0.05, 0.02), least=again.rule().least)
    assert np.array_equal(again.rule().least, first.rule().least)
    features = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    assert np.allclose(again.distance(features), first.distance(features), rtol=1e-2)


@pytest.mark.parametrize(
    "change",
    [{"labels": np.zeros(3, np.int32)}, {"confidence": np.full(400, np.nan)}, {"distances": np.zeros(3, np.float32)}],
)
def test_damaged_arrays_are_refused(change: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"arrays of|NaN"):
        Evidence.from_arrays(made().arrays() | change, 3)


def test_evidence_of_another_format_is_refused() -> None:
    arrays = made().arrays()
    arrays["source"][0] += 1
    with pytest.raises(ValueError, match="format 2, and this version of cnn-tl reads 1"):
        Evidence.from_arrays(arrays, 3)


def test_evidence_of_other_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        Evidence.from_arrays(made().arrays(), 4)


def test_the_default_rule_withholds_nothing() -> None:
    rule = made().rule()
    assert not rule.withholds
    assert rule.least_confidence == 0
    assert rule.most_distance == pytest.approx(1, rel=1e-6)


def test_a_promise_withholds_and_is_the_stricter_the_smaller_the_error() -> None:
    evidence = made(2_000, sure=2.0)
    strict, loose = evidence.rule(max_error=0.02), evidence.rule(max_error=0.1)
    assert strict.withholds
    assert strict.least_confidence > loose.least_confidence > 0
    kept = evidence.confidence_n >= strict.least_confidence
    assert 0 < (~evidence.right_n[kept]).mean() <= 0.02


def test_a_promise_leaves_out_what_is_called_unknown() -> None:
    evidence = made(2_000, sure=2.0)
    far = evidence.distances_n > evidence.most_distance(0.2)
    worse = replace(evidence, right_n=evidence.right_n & ~far)
    assert worse.promise(0.05, 0.2).least == evidence.promise(0.05, 0.2).least
    assert worse.promise(0.05).least != evidence.promise(0.05).least


@pytest.mark.parametrize(("share", "beyond"), [(0.01, 4), (0.1, 40), (0.25, 100)])
def test_about_the_given_share_of_held_out_images_is_unknown(share: float, beyond: int) -> None:
    evidence = made()
    assert 0 < (evidence.distances_n > evidence.most_distance(share)).sum() <= beyond


def test_what_cannot_be_promised_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match="needs at least 2,995 held-out images, there are"):
        made().rule(max_error=0.001)
    with pytest.raises(UsageError, match="no confidence is enough for at most 2% wrong"):
        made(sure=0.2).rule(max_error=0.02)


def test_without_distances_nothing_is_unknown_and_asking_for_it_is_refused() -> None:
    evidence = replace(made(), distances_n=None, distance=None)
    assert evidence.rule().most_distance == math.inf
    assert "distances" not in evidence.arrays()
    with pytest.raises(UsageError, match="does not measure distances"):
        evidence.rule(unknown=0.01)


def test_one_image_of_another_class_disturbs_nothing() -> None:
    chance = np.random.default_rng(3)
    labels = np.array([0] * 100 + [1] * 100 + [2])
    features = (chance.normal(size=(201, 8)) + 3 * np.eye(8)[labels]).astype(np.float32)
    distance, distances = fit_with_held_out(features, labels, 3)
    evidence = Evidence.of("training", np.eye(3)[labels] * 5, labels, distances, distance)
    assert np.isfinite(evidence.distances_n[-1])
    assert evidence.most_distance() == pytest.approx(1, rel=1e-6)
    assert np.isfinite(evidence.most_distance(0.001))
    Evidence.from_arrays(evidence.arrays(), 3)


def test_a_distance_whose_usual_values_are_not_known_is_not_kept() -> None:
    first = made()
    assert first.distance is not None
    nowhere = np.full(400, np.nan, np.float32)
    without = Evidence.of("training", np.eye(3)[first.labels_n], first.labels_n, nowhere, first.distance)
    assert without.distance is None
    assert without.rule().most_distance == math.inf


def test_many_images_are_thinned_by_the_seed() -> None:
    labels = np.arange(MOST_IMAGES + 10) % 2
    logits = np.random.default_rng(0).normal(size=(len(labels), 2))
    one, same, other = (Evidence.of("validation", logits, labels, seed=seed) for seed in (1, 1, 2))
    assert one.images == MOST_IMAGES
    assert one.right_n.mean() == pytest.approx((logits.argmax(1) == labels).mean(), abs=0.001)
    assert np.array_equal(one.true_n, same.true_n)
    assert not np.array_equal(one.true_n, other.true_n)


def test_reliable_answers_are_those_whose_accuracy_is_promised() -> None:
    """Of 400 answers the 300 surest are right, of the others every second."""
    sureness = np.linspace(0.99, 0.51, 400)
    right = (np.arange(400) < 300) | (np.arange(400) % 2 == 1)
    logits = np.log(np.stack([sureness, 1 - sureness], 1))
    evidence = Evidence.of("validation", logits, np.where(right, 0, 1))
    ninety, ninety_five, *more = evidence.reliable
    assert [one["accuracy"] for one in (ninety, ninety_five, *more)] == [0.9, 0.95, 0.99]
    for one in (ninety, ninety_five, *more):
        surer = evidence.confidence_n >= one["probability"]
        assert one["share"] == surer.mean()
        assert right[surer].mean() >= one["accuracy"]
    assert ninety["probability"] < ninety_five["probability"]
    assert evidence._only(np.arange(5)).reliable == []
