"""Fits by several threads: each answers only what its draw holds out, and an interruption ends them."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cnn_tl.advising.learning_curve import measure as module
from cnn_tl.advising.learning_curve.measure import fit_auto, measure
from cnn_tl.advising.learning_curve.subsets import draws_of
from cnn_tl.core.errors import DivergedError
from cnn_tl.heads import Problem

CHANCE = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], 30)
FEATURES = (2 * np.eye(3)[LABELS] @ CHANCE.normal(size=(3, 16)) + CHANCE.normal(size=(90, 16))).astype(np.float32)
DRAWS = draws_of(LABELS, None, 5, seed=0)


def test_answers_are_those_of_heads_without_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(FEATURES, LABELS, None, DRAWS, [9, 30, 72], fit_auto, 3, seed=0)
    assert list(found.sizes) == [9, 30, 72]
    assert sorted(found.images) == list(range(90))
    assert np.array_equal(found.labels, LABELS[found.images])
    draw = DRAWS[2]
    rows = draw.subset(30)
    alone = fit_auto(Problem([FEATURES[rows]], LABELS[rows], 3, np.ones(3), 0))
    own = found.draw == 2
    assert np.array_equal(found.images[own], draw.judged)
    assert np.array_equal(found.predicted[own, 1], alone(FEATURES[draw.judged]).argmax(1))
    monkeypatch.setattr(module, "usable", lambda: 1)
    again = measure(FEATURES, LABELS, None, DRAWS, [9, 30, 72], fit_auto, 3, seed=0)
    assert np.array_equal(found.predicted, again.predicted)


def test_groups_and_class_numbers_reach_the_fit() -> None:
    groups = np.arange(90) // 3
    seen: list[Problem] = []

    def fit(problem: Problem) -> object:
        seen.append(problem)
        return lambda features: np.zeros((len(features), 3))

    measure(FEATURES, LABELS, groups, draws_of(LABELS, groups, 5, 0), [30], fit, 3, seed=4)  # type: ignore[arg-type]
    for problem in seen:
        assert problem.groups is not None
        assert np.bincount(problem.groups).max() == 3
        assert set(np.bincount(problem.groups)) <= {0, 3}
        assert (problem.num_classes, problem.seed) == (3, 4)


def test_progress_is_told_after_each_fit() -> None:
    told: list[int] = []
    measure(FEATURES, LABELS, None, DRAWS, [9, 30], fit_auto, 3, 0, told.append)
    assert told == [30] * 5 + [9] * 5


def test_an_error_or_an_interruption_begins_no_other_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable", lambda: 1)
    begun: list[int] = []

    def fit(problem: Problem) -> object:
        begun.append(1)
        if len(begun) == 2:
            raise DivergedError("the fitted head is not finite")
        time.sleep(0.05)
        return lambda features: np.zeros((len(features), 3))

    with pytest.raises(DivergedError):
        measure(FEATURES, LABELS, None, DRAWS, [9, 30], fit, 3, 0)  # type: ignore[arg-type]
    assert len(begun) < 10

    def interrupt(images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(FEATURES, LABELS, None, DRAWS, [9, 30], fit_auto, 3, 0, interrupt)


@pytest.mark.parametrize(("free", "fits"), [(None, 8), (2**40, 8), (10 * 2**30, 3), (2**20, 1)])
def test_memory_limits_how_many_fits_run_at_once(monkeypatch: pytest.MonkeyPatch, free: int | None, fits: int) -> None:
    """One of 30,000 images takes about 1.7 GB."""
    monkeypatch.setattr(module, "usable", lambda: 8)
    monkeypatch.setattr(module, "free_memory", lambda: free)
    assert module._fits_at_once(30_000, 1280) == fits
