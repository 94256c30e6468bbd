"""What is foretold is near the truth, and its interval holds it as often as it says, on curves that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn_tl.advising.learning_curve.extrapolate import Noisy, foretell, noisy

SIZES = np.array([8.0, 14, 24, 42, 73, 128, 225])
DRAWS = np.arange(300) % 10


def answers(error: Callable[[NDArray[np.float64]], NDArray[np.float64]], seed: int) -> NDArray[np.bool_]:
    """Return right answers [300, S]: an image that is hard at one size is hard at all, as real ones are."""
    chance = np.random.default_rng(seed)
    shared, own = chance.random((300, 1)), chance.random((300, len(SIZES)))
    hard = np.where(chance.random((300, len(SIZES))) < 0.7, shared, own)
    return np.asarray(hard >= error(SIZES))


def floor(n: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.05 + 0.9 * n**-0.7


def steep(n: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.9 * n**-0.3


@pytest.mark.parametrize("curve", [floor, steep])
def test_intervals_hold_the_truth(curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    truth = 1 - curve(np.array([450.0]))[0]
    held, missed = 0, []
    for seed in range(40):
        found = foretell(noisy(answers(curve, seed), DRAWS, SIZES), [450], seed)
        low, high = found.interval(0)
        assert low <= found.accuracy[0] <= high
        held += low <= truth <= high
        missed.append(abs(found.accuracy[0] - truth))
        assert high - low < 0.25
    assert held >= 34  # of 40: fewer than 85% would be a bug at a level of 95%
    assert np.median(missed) < 0.025


def test_a_curve_that_still_falls_is_foretold_to_gain_more_than_one_at_its_floor() -> None:
    gains = []
    for errors in (steep(SIZES), np.full(len(SIZES), 0.2)):
        made = Noisy(SIZES, errors, np.eye(len(SIZES)) * 1e-5, 10_000)
        found = foretell(made, [225, 450, 900], 0)
        gains.append(found.accuracy[1] - found.accuracy[0])
        assert found.accuracy[0] == pytest.approx(1 - errors[-1], abs=1e-9)
        assert list(found.accuracy) == sorted(found.accuracy)
    assert gains[0] == pytest.approx(steep(SIZES)[-1] * (1 - 2**-0.3), abs=0.01)
    assert gains[1] < 0.003


def test_intervals_widen_with_distance_and_narrow_with_images() -> None:
    def width(judged: int, target: float) -> float:
        errors = steep(SIZES)
        covariance = np.eye(len(SIZES)) * 0.2 / judged
        low, high = foretell(Noisy(SIZES, errors, covariance, judged), [target], 0).interval(0)
        return high - low

    assert width(300, 450) < width(300, 1_800)
    assert width(30_000, 450) < width(300, 450)


def test_where_all_are_right_none_is_certain() -> None:
    found = foretell(noisy(np.ones((60, 7), bool), np.arange(60) % 10, SIZES), [450], 0)
    low, high = found.interval(0)
    assert found.accuracy[0] == 1
    assert high == 1
    assert 0.9 < low < 0.99


def test_draws_that_differ_add_to_the_uncertainty() -> None:
    alike = np.tile(np.arange(10) % 2 == 0, 30)[:, None].repeat(7, 1)  # half of each draw's images are right
    apart = (np.arange(300) // 30 % 2 == 0)[:, None].repeat(7, 1)  # all of every other draw's
    draws = np.arange(300) // 30
    same, differing = (noisy(one, draws, SIZES) for one in (alike, apart))
    assert np.allclose(same.errors, differing.errors)
    assert differing.covariance[0, 0] > 5 * same.covariance[0, 0]


def test_the_same_seed_gives_the_same_figures() -> None:
    made = noisy(answers(floor, 0), DRAWS, SIZES)
    one, again, other = (foretell(made, [450], seed) for seed in (0, 0, 1))
    assert np.array_equal(one.drawn, again.drawn)
    assert not np.array_equal(one.drawn, other.drawn)
    assert one.weights == other.weights
