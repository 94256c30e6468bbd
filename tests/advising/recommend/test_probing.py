"""Cross-validation: each image is judged by heads without it, and without its group."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.advising.recommend.probing import FOLDS, REPEATS, probe_of
from cnn_tl.core.errors import DivergedError
from cnn_tl.recipe.defaults import HEAD_DEFAULTS

AUTO = HEAD_DEFAULTS["auto"]
LABELS = np.arange(60) % 3


def clear(labels: np.ndarray, noise: float = 0.3, dimensions: int = 8) -> np.ndarray:
    random = np.random.default_rng(0)
    found: np.ndarray = np.eye(dimensions)[labels] + random.normal(0, noise, (len(labels), dimensions))
    return found.astype(np.float32)


def test_clear_classes_are_told_and_noise_is_not() -> None:
    probe = probe_of(LABELS, None, "abc", 0)
    assert probe.scores(clear(LABELS), AUTO, lambda: None).mean() > 0.9
    noise = probe.scores(clear(np.zeros(60, int)), AUTO, lambda: None)
    assert noise.mean() < 0.6
    assert set(np.round(REPEATS * noise, 6)) <= set(range(REPEATS + 1))


def test_folds_are_the_same_each_time_and_differ_between_repetitions() -> None:
    one, again = probe_of(LABELS, None, "abc", 0), probe_of(LABELS, None, "abc", 0)
    assert all((a == b).all() for a, b in zip(one.folds, again.folds, strict=True))
    assert len(one.folds) == REPEATS
    assert (one.folds[0] != one.folds[1]).any()
    assert one.judged.all()


def test_copies_do_not_vouch_for_each_other() -> None:
    """Noise in copies of four: without groups each copy knows the label of the others."""
    random = np.random.default_rng(1)
    features = np.repeat(random.normal(size=(30, 40)), 4, axis=0).astype(np.float32)
    labels, groups = np.repeat(np.arange(30) % 2, 4), np.repeat(np.arange(30), 4)
    apart, together = probe_of(labels, None, "ab", 0), probe_of(labels, groups, "ab", 0)
    assert apart.scores(features, AUTO, lambda: None).mean() > 0.9
    assert together.scores(features, AUTO, lambda: None).mean() < 0.75
    for fold_N in together.folds:
        assert all(len(set(fold_N[groups == group])) == 1 for group in range(30))


def test_a_group_with_a_whole_class_is_not_judged() -> None:
    labels = np.array([0] * 20 + [1] * 4)
    groups = np.concatenate([np.arange(20), [20] * 4])
    probe = probe_of(labels, groups, "ab", 0)
    assert probe.judged.tolist() == [True] * 20 + [False] * 4
    assert all((fold_N[20:] == FOLDS).all() for fold_N in probe.folds)
    assert len(probe.scores(clear(labels), AUTO, lambda: None)) == 20


def test_the_only_image_of_a_class_is_wrong() -> None:
    labels = np.array([0] * 10 + [1] * 10 + [2])
    scores = probe_of(labels, None, "abc", 0).scores(clear(labels, 0.05), AUTO, lambda: None)
    assert scores.tolist() == [1.0] * 20 + [0.0]


def test_two_classes_of_two_images() -> None:
    labels = np.array([0, 0, 1, 1])
    assert probe_of(labels, None, "ab", 0).scores(clear(labels, 0.01), AUTO, lambda: None).tolist() == [1.0] * 4


def test_an_exception_of_check_ends_it() -> None:
    class EndedError(Exception):
        pass

    def end() -> None:
        raise EndedError

    with pytest.raises(EndedError):
        probe_of(LABELS, None, "abc", 0).scores(clear(LABELS), AUTO, end)


def test_features_that_are_not_finite() -> None:
    features = clear(LABELS)
    features[3, 1] = np.nan
    with pytest.raises(DivergedError, match="NaN"):
        probe_of(LABELS, None, "abc", 0).scores(features, AUTO, lambda: None)
