"""Suggestions on made-up curves whose steepest place is known, and in whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from whole_runs import StopAfter

from cnn_tl.core.errors import DivergedError
from cnn_tl.core.progress import Observer
from cnn_tl.recipe import Recipe
from cnn_tl.training.loop.lr_range_test import (
    BELOW_RISE,
    MIN_STEPS,
    STEEPEST,
    VALLEY,
    UndecidedError,
    evaluated,
    has_diverged,
    longest_fall,
    suggest,
)
from cnn_tl.training.run import find_lr, train
from cnn_tl.training.step import gradients

RATES = np.geomspace(1e-6, 1, 60)
EXPONENTS = np.log10(RATES)


def course(middle: float, noise: float = 0.0, seed: int = 0, divergence: float = -1.2) -> NDArray[np.float64]:
    """Return losses that fall like a logistic curve, fastest at 10**middle, and run away beyond 10**divergence."""
    fall = 1.1 - 0.9 / (1 + np.exp(-(EXPONENTS - middle) / 0.33))
    runaway = 30 * np.maximum(0, EXPONENTS - divergence) ** 2
    return fall + runaway + np.random.default_rng(seed).normal(0, noise, len(RATES))


STARTS = np.full(60, 1.1)


def steepest(losses: NDArray[np.float64], starts: NDArray[np.float64] = STARTS) -> float:
    return suggest(RATES[: len(losses)], losses, starts[: len(losses)])[STEEPEST]


@pytest.mark.parametrize("middle", [-4.5, -3.2, -2.3])
def test_the_steepest_place_is_found(middle: float) -> None:
    assert np.log10(steepest(course(middle))) == pytest.approx(middle, abs=0.25)


@pytest.mark.parametrize("seed", range(20))
def test_noise_moves_it_little_and_the_scale_of_the_loss_not_at_all(seed: int) -> None:
    losses = course(-3.2, noise=0.05, seed=seed)
    found = steepest(losses)
    assert np.log10(found) == pytest.approx(-3.2, abs=0.4)
    assert steepest(7 * losses, 7 * STARTS) == found


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_batches_that_differ_more_than_a_rate_does_hide_nothing(share: float, seed: int) -> None:
    """Batches of a fitted head: losses from 0.01 to 1, each lowered by a few percent, as in no moving average."""
    chance = np.random.default_rng(seed)
    starts = 10 ** chance.uniform(-2, 0, 60)
    fall = share / (1 + np.exp(-(EXPONENTS + 3.2) / 0.33))
    losses = starts * (1 - fall) * np.exp(chance.normal(0, 0.01, 60))
    assert np.log10(suggest(RATES, losses, starts)[STEEPEST]) == pytest.approx(-3.2, abs=0.5)


def test_the_valley_is_the_middle_of_the_longest_fall() -> None:
    assert longest_fall([5, 9, 4, 8, 7, 6, 1, 2]) == [1, 3, 4, 5, 7]
    assert longest_fall([1, 1, 1]) == [2] or longest_fall([1, 1, 1]) == [0]
    assert longest_fall([]) == []
    found = suggest(RATES, course(-3.2), STARTS)
    lowest = RATES[course(-3.2).argmin()]
    assert RATES[6] < found[VALLEY] < found[STEEPEST] < lowest


def test_divergence_makes_no_difference_however_high_it_goes() -> None:
    losses = course(-3.2)
    cut = losses[EXPONENTS < -1]
    assert steepest(cut) == pytest.approx(steepest(losses), rel=0.3)
    assert steepest(np.where(EXPONENTS > -1, 1e9, losses)) == pytest.approx(steepest(losses), rel=0.3)


def test_a_fall_after_the_divergence_does_not_count() -> None:
    losses = np.where(EXPONENTS > -0.5, 5.0, course(-3.2))
    losses[-3:] = [3.0, 1.5, 1.0]
    assert np.log10(steepest(losses)) == pytest.approx(-3.2, abs=0.25)


@pytest.mark.parametrize("length", [60, 40, 12])
def test_the_line_follows_the_whole_course(length: int) -> None:
    losses = course(-3.2, noise=0.02)[:length]
    found = evaluated(RATES[:length].tolist(), losses.tolist(), [1.1] * length, "finetune")
    assert len(found.smoothed) == len(found.losses) == length
    flat = EXPONENTS[:length] < -1.5
    assert np.abs(np.array(found.smoothed) - course(-3.2)[:length])[flat].max() < 0.15
    if length == 60:
        assert found.smoothed[-1] > 5, "the loss has run away, and so has the line"


@pytest.mark.parametrize("losses", [[1.1] * 60, [1.1] * 5, np.random.default_rng(3).normal(1.1, 0.1, 60)])
def test_where_nothing_changes_nothing_is_suggested(losses: list[float]) -> None:
    with pytest.raises((DivergedError, UndecidedError), match="none can be suggested"):
        suggest(RATES[: len(losses)], losses, STARTS[: len(losses)])


@pytest.mark.parametrize("rises_at", [-4.0, -3.0, -2.0])
def test_where_the_loss_only_rises_a_tenth_of_that_rate_is_taken(rises_at: float) -> None:
    losses = np.where(rises_at < EXPONENTS, 2.2, 1.1)
    found = evaluated(RATES.tolist(), losses.tolist(), STARTS.tolist(), "finetune")
    assert found.default == BELOW_RISE
    assert found.suggestion is not None
    assert np.log10(found.suggestion) == pytest.approx(rises_at - 1, abs=0.5)
    assert "a tenth of the one" in found.reason


def test_too_few_losses_are_no_divergence() -> None:
    with pytest.raises(DivergedError, match="5 losses are too few"):
        suggest(RATES[:5], [1.0] * 5, [1.0] * 5)


def fitted(seed: int) -> NDArray[np.float64]:
    """Return losses under a fitted head: nearly all batches are right already, and a few are not."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(RATES)) < 0.2, 0.1, 1e-4) * random.random(len(RATES))


@pytest.mark.parametrize("seed", range(20))
def test_batches_of_a_fitted_head_are_not_gone_and_alone_suggest_nothing(seed: int) -> None:
    losses = fitted(seed)
    losses[EXPONENTS > -2.5] *= 1e-3
    assert not any(has_diverged(losses[:count].tolist()) for count in range(1, len(losses)))
    with pytest.raises(UndecidedError, match=r"none can be suggested.*or leave --lr out"):
        suggest(RATES, fitted(seed), fitted(seed))


@pytest.mark.parametrize("losses", [fitted(0), course(-3.2, noise=0.05)])
def test_a_loss_that_runs_away_ends_the_test(losses: NDArray[np.float64]) -> None:
    before = losses[:30].tolist()
    assert not has_diverged(before)
    assert has_diverged([*before, 39.5])
    assert not has_diverged([*before[: MIN_STEPS - 2], 39.5])


def test_lr_auto_under_a_fitted_head(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Also where it tells the colours apart already, the losses of pairs find a rate; it is named in a note."""
    automatic = {"lr": "auto", "epochs": 1}
    observer = StopAfter("", 0)
    result = train(recipe("lp-ft", train=automatic), tmp_path / "run", observer=observer)
    assert 1e-6 < result.facts["lr"] < 1e-1
    [note] = [note for note in observer.notes if note.startswith("learning rate")]
    assert "by a range test (" in note or "the mode's default" in note


def test_the_test_is_of_the_same_batches_and_leaves_the_model(recipe: Callable[..., Recipe]) -> None:
    found = find_lr(recipe("finetune", train={"head_start": "random"}))
    assert found.losses[0] == pytest.approx(found.starts[0], abs=1e-6)
    assert np.abs(np.log(np.array(found.losses[:5]) / found.starts[:5])).max() < 0.02
    assert np.std(found.starts) > 0.01
    assert set(found.suggestions) == {VALLEY, STEEPEST}
    assert found.suggestion == found.suggestions[STEEPEST]


def test_a_loss_that_is_never_finite_is_said(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = gradients.Gradients._forward
    monkeypatch.setattr(gradients.Gradients, "_forward", lambda self, x: forward(self, x) * torch.nan)
    with pytest.raises(DivergedError, match="not finite at a learning rate of 1e-06 already"):
        find_lr(recipe("finetune"))


def test_progress_counts_images_not_steps(recipe: Callable[..., Recipe]) -> None:
    totals: dict[str, int | None] = {}
    done: list[int] = []
    observer = Observer()
    observer.start = lambda task, total, unit="images": totals.update({task: total})  # type: ignore[method-assign]
    observer.advance = lambda images, figures=None: done.append(images)  # type: ignore[method-assign]
    found = find_lr(recipe("scratch"), observer=observer)
    steps = done[-len(found.rates) :]
    assert set(steps) <= {7, 8}  # 36 images in batches of up to 8
    assert totals["learning rates"] == 60 // 5 * 36 >= sum(steps)
