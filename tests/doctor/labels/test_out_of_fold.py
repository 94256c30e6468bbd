"""Logistic regression judges no image that it has seen."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.doctor.labels.out_of_fold import affordable, out_of_fold_logits
from cnn_tl.doctor.labels.units import units_of

ALL = np.ones(120, bool)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(6).normal(size=(120, 64)).astype(np.float32)


def test_what_it_has_not_seen_it_only_guesses(noise: np.ndarray) -> None:
    labels = np.random.default_rng(7).integers(0, 2, 120)
    logits = out_of_fold_logits(noise, labels, ALL, 2, units_of(None, 120), 0)
    assert (logits.argmax(1) == labels).mean() < 0.65


def test_copies_in_one_unit_are_guessed_too(noise: np.ndarray) -> None:
    labels = np.random.default_rng(7).integers(0, 2, 60)
    twice, groups = np.concatenate([noise[:60]] * 2), np.arange(120) % 60
    right = [
        (out_of_fold_logits(twice, np.tile(labels, 2), ALL, 2, units_of(given, 120), 0).argmax(1) == np.tile(labels, 2))
        for given in (None, groups)
    ]
    assert right[0].mean() > 0.75
    assert right[1].mean() < 0.65


def test_images_that_are_not_kept_do_not_count(noise: np.ndarray) -> None:
    labels = np.arange(120) % 2
    noise[:, 0] += 4 * labels
    others = labels.copy()
    others[:30] = 1 - others[:30]
    kept = np.arange(120) >= 30
    logits = out_of_fold_logits(noise, others, kept, 2, units_of(None, 120), 0)
    assert (logits[:30].argmax(1) == labels[:30]).mean() > 0.85


def test_a_class_that_no_fit_has_seen_is_as_likely_as_the_least_likely_one(noise: np.ndarray) -> None:
    logits = out_of_fold_logits(noise, np.arange(120) % 2, ALL, 3, units_of(None, 120), 0)
    np.testing.assert_array_equal(logits[:, 2], logits[:, :2].min(1))


def test_without_two_classes_to_tell_apart_nothing_is_said(noise: np.ndarray) -> None:
    labels = np.arange(120) % 2
    assert not out_of_fold_logits(noise, labels, labels == 0, 2, units_of(None, 120), 0).any()
    assert not out_of_fold_logits(noise, labels, ALL, 2, units_of(np.zeros(120, np.int64), 120), 0).any()


def test_it_is_for_enough_images_of_each_class_and_not_too_many_altogether() -> None:
    assert affordable(100_000, 64, 10)
    assert not affordable(3_000, 64, 1_000)
    assert not affordable(1_000_000, 64, 100)
