"""Suggestions on made-up curves whose steepest place is known, and in whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from whole_runs import StopAfter

from cnn_tl.errors import DivergedError
from cnn_tl.optimisation import step
from cnn_tl.progress import Observer
from cnn_tl.recipe import Recipe
from cnn_tl.recipe.defaults import MODE_TRAIN
from cnn_tl.training.lr_find import LEAST_STEPS, UndecidedError, falling, is_gone, suggest
from cnn_tl.training.train import find_lr, train

RATES = np.geomspace(1e-6, 1, 60)
EXPONENTS = np.log10(RATES)


def course(middle: float, noise: float = 0.0, seed: int = 0, divergence: float = -1.2) -> NDArray[np.float64]:
    """Return losses that fall like a logistic curve, fastest at 10**middle, and run away beyond 10**divergence."""
    fall = 1.1 - 0.9 / (1 + np.exp(-(EXPONENTS - middle) / 0.33))
    runaway = 30 * np.maximum(0, EXPONENTS - divergence) ** 2
    return fall + runaway + np.random.default_rng(seed).normal(0, noise, len(RATES))


@pytest.mark.parametrize("middle", [-4.5, -3.2, -2.3])
def test_the_steepest_place_is_found(middle: float) -> None:
    assert np.log10(suggest(RATES, course(middle))) == pytest.approx(middle, abs=0.15)


@pytest.mark.parametrize("seed", range(20))
def test_noise_moves_it_little_and_the_scale_of_the_loss_not_at_all(seed: int) -> None:
    losses = course(-3.2, noise=0.05, seed=seed)
    found = suggest(RATES, losses)
    assert np.log10(found) == pytest.approx(-3.2, abs=0.4)
    assert suggest(RATES, 7 * losses + 2) == found


def test_divergence_makes_no_difference_however_high_it_goes() -> None:
    losses = course(-3.2)
    cut = losses[EXPONENTS < -1]
    assert suggest(RATES[: len(cut)], cut) == pytest.approx(suggest(RATES, losses), rel=0.3)
    assert suggest(RATES, np.where(EXPONENTS > -1, 1e9, losses)) == pytest.approx(suggest(RATES, losses), rel=0.3)


def test_a_fall_after_the_divergence_does_not_count() -> None:
    losses = np.where(EXPONENTS > -0.5, 5.0, course(-3.2))
    losses[-3:] = [3.0, 1.5, 1.0]
    assert np.log10(suggest(RATES, losses)) == pytest.approx(-3.2, abs=0.2)


def test_the_smooth_course_ends_at_the_lowest() -> None:
    losses = course(-3.2, noise=0.02)
    smooth = np.array(falling(RATES, losses))
    assert -2.6 < EXPONENTS[len(smooth) - 1] < -1
    assert np.abs(smooth - course(-3.2)[: len(smooth)]).max() < 0.1
    assert falling([], []) == []


@pytest.mark.parametrize("losses", [[1.0] * 60, np.linspace(1, 2, 60), [1.0] * 5])
def test_where_nothing_falls_nothing_is_suggested(losses: list[float]) -> None:
    with pytest.raises((DivergedError, UndecidedError), match="none can be suggested"):
        suggest(RATES[: len(losses)], losses)


def test_too_few_losses_are_no_divergence() -> None:
    with pytest.raises(DivergedError, match="5 losses are too few"):
        suggest(RATES[:5], [1.0] * 5)


def fitted(seed: int) -> NDArray[np.float64]:
    """Return losses under a fitted head: nearly all batches are right already, and a few are not."""
    random = np.random.default_rng(seed)
    return np.where(random.random(len(RATES)) < 0.2, 0.1, 1e-4) * random.random(len(RATES))


@pytest.mark.parametrize("seed", range(20))
def test_batches_of_a_fitted_head_are_not_gone_and_suggest_nothing(seed: int) -> None:
    losses = fitted(seed)
    losses[EXPONENTS > -2.5] *= 1e-3
    assert not any(is_gone(losses[:count].tolist()) for count in range(1, len(losses)))
    with pytest.raises(UndecidedError, match=r"none can be suggested.*or leave --lr out"):
        suggest(RATES, losses)


@pytest.mark.parametrize("losses", [fitted(0), course(-3.2, noise=0.05)])
def test_a_loss_that_runs_away_ends_the_test(losses: NDArray[np.float64]) -> None:
    before = losses[:30].tolist()
    assert not is_gone(before)
    assert is_gone([*before, 39.5])
    assert not is_gone([*before[: LEAST_STEPS - 2], 39.5])


def test_lr_auto_under_a_fitted_head(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """Where it tells the colours apart there is nothing for a rate to show; a head held back leaves something."""
    automatic = {"lr": "auto", "epochs": 1}
    observer = StopAfter("", 0)
    result = train(recipe("lp-ft", train=automatic), tmp_path / "run", observer=observer)
    assert result.facts["lr"] == MODE_TRAIN["lp-ft"].lr
    assert any("the mode's own: a range test could not tell" in note for note in observer.notes)
    result = train(recipe("lp-ft", train=automatic, head={"penalty": 10.0}), tmp_path / "held back")
    assert 1e-5 < result.facts["lr"] < 1e-1
    assert result.facts["lr"] != MODE_TRAIN["lp-ft"].lr


def test_a_loss_that_is_never_finite_is_said(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = step.Gradients._forward
    monkeypatch.setattr(step.Gradients, "_forward", lambda self, x: forward(self, x) * torch.nan)
    with pytest.raises(DivergedError, match="not finite at a learning rate of 1e-06 already"):
        find_lr(recipe("finetune"))


def test_progress_counts_pictures_not_steps(recipe: Callable[..., Recipe]) -> None:
    totals: dict[str, int | None] = {}
    done: list[int] = []
    observer = Observer()
    observer.start = totals.__setitem__  # type: ignore[method-assign]
    observer.advance = lambda pictures, figures=None: done.append(pictures)  # type: ignore[method-assign]
    found = find_lr(recipe("scratch"), observer=observer)
    steps = done[-len(found.rates) :]
    assert set(steps) <= {7, 8}  # 36 pictures in batches of up to 8
    assert totals["learning rates"] == 60 // 5 * 36 >= sum(steps)
