"""Each family finds its own curve again, and none rises above or falls below what it may."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn_tl.advising.learning_curve.families import FAMILIES, PRIOR

SIZES = 10.0 * 2 ** np.arange(8)
TARGETS = SIZES[-1] * np.array([2.0, 4.0])
CURVES: dict[str, Callable[[float], float]] = {
    "power": lambda n: 0.9 * n**-0.35,
    "power to floor": lambda n: 0.15 + 1.2 * n**-0.5,
    "logarithm": lambda n: 0.6 - 0.06 * np.log(n),
    "exponential": lambda n: 0.2 + 0.5 * np.exp(-n / 320),
    "probit": lambda n: NormalDist().cdf(0.5 - 0.3 * np.log(n)),
}


def values(name: str, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([CURVES[name](size) for size in sizes])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_recovers_its_own_curve(name: str) -> None:
    found = FAMILIES[name](SIZES, TARGETS, values(name, SIZES)[None], np.full(8, 1e6))
    assert found.at[0] == pytest.approx(values(name, TARGETS), abs=0.004)


@pytest.mark.parametrize("name", FAMILIES)
def test_many_curves_at_once_equal_each_alone(name: str) -> None:
    chance = np.random.default_rng(0)
    curves = np.clip(values("power", SIZES) + 0.03 * chance.standard_normal((5, 8)), 0, 1)
    weights = np.geomspace(1e3, 1e4, 8)
    together = FAMILIES[name](SIZES, TARGETS, curves, weights)
    for place, curve in enumerate(curves):
        alone = FAMILIES[name](SIZES, TARGETS, curve[None], weights)
        assert alone.at[0] == pytest.approx(together.at[place], abs=0.01)  # the scale of probit is that of the mean


@pytest.mark.parametrize("name", FAMILIES)
def test_errors_that_rise_are_foretold_to_stay(name: str) -> None:
    rising = np.linspace(0.2, 0.3, 8)
    found = FAMILIES[name](SIZES, TARGETS, rising[None], np.full(8, 1e4))
    assert found.at[0, 1] == pytest.approx(found.at[0, 0], abs=1e-6)
    assert 0.2 <= found.at[0, 0] <= 0.3


@pytest.mark.parametrize("name", FAMILIES)
def test_no_error_is_negative_where_the_curve_reaches_none(name: str) -> None:
    found = FAMILIES[name](SIZES, TARGETS, np.maximum(0.2 - 0.04 * np.arange(8), 0)[None], np.full(8, 1e4))
    assert (found.at >= 0).all()


def test_each_family_has_a_prior() -> None:
    assert list(PRIOR) == list(FAMILIES)
    assert sum(PRIOR.values()) == pytest.approx(1)
