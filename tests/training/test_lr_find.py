"""Suggestions on made-up curves whose steepest place is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn_tl.errors import DivergedError
from cnn_tl.training.lr_find import falling, suggest

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
    with pytest.raises(DivergedError, match="none can be suggested"):
        suggest(RATES[: len(losses)], losses)
