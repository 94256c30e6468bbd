"""Shapes that learning curves have, each fitted to many drawn curves at once by weighted least squares.

The error e falls with the number of images n as (Viering and Loog 2022, "The shape of learning curves: a review",
sec. 3.1; Mahmood et al. 2022, "How much more data do I need?", sec. 3.2)

    power           b n^-c
    power to floor  a + b n^-c
    logarithm       a - b log n
    exponential     a + b exp(-n / c)
    probit          Phi(a - b log n)

with a, b >= 0, except where a lies on the scale of Phi. All but the exponent are linear, so a grid of exponents and
linear algebra find the optimum; no step can diverge.

Shapes: B drawn curves, S sizes, T targets, C exponents, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

EXPONENT, SPREAD = 0.5, 0.5
"""Mean and standard deviation of the prior of a power's exponent: without it, noise alone finds floors and cliffs.
Most measured exponents lie between 0.2 and 0.8 (Viering and Loog 2022, sec. 4.1)."""


@dataclass(frozen=True)
class Fitted:
    """One family, fitted to each drawn curve.

    Attributes:
        at: the error at the targets, [B, T].
        misfit: the weighted squares of the residuals, and of the prior, [B].
        parameters: P.
    """

    at: Values
    misfit: Values
    parameters: int


def _grid(
    sizes_S: Values, targets_T: Values, errors_BS: Values, weights_S: Values,
    shapes: Sequence[Callable[[Values], Values]], prior_C: Values, *, floor: bool,
) -> Fitted:  # fmt: skip
    """Fit a * floor + b * shape(n) for the best of some shapes; a and b are not negative."""
    best = np.full(len(errors_BS), np.inf)
    at_BT = np.zeros((len(errors_BS), len(targets_T)))
    for shape, prior in zip(shapes, prior_C, strict=True):
        basis_S, basis_T = shape(sizes_S), shape(targets_T)
        a_B, b_B = _line(basis_S, errors_BS, weights_S, floor=floor)
        residual_BS = errors_BS - a_B[:, None] - b_B[:, None] * basis_S
        misfit_B = np.square(residual_BS) @ weights_S + prior
        better = misfit_B < best
        best[better] = misfit_B[better]
        at_BT[better] = a_B[better, None] + b_B[better, None] * basis_T
    return Fitted(at_BT, best, 3 if floor else 2)


def _line(basis_S: Values, errors_BS: Values, weights_S: Values, *, floor: bool) -> tuple[Values, Values]:
    """Return a and b of a + b * basis with the least weighted squares, neither of them negative; [B] each."""
    alone_B = np.maximum(errors_BS @ (weights_S * basis_S) / (weights_S @ basis_S**2), 0)
    none_B = np.zeros(len(errors_BS))
    if not floor:
        return none_B, alone_B
    total = weights_S.sum()
    basis_mean, mean_B = weights_S @ basis_S / total, errors_BS @ weights_S / total
    varies = max(float(weights_S @ (basis_S - basis_mean) ** 2), 1e-300)
    b_B = (errors_BS - mean_B[:, None]) @ (weights_S * (basis_S - basis_mean)) / varies
    a_B = mean_B - b_B * basis_mean
    rising, below = b_B < 0, a_B < 0
    a_B, b_B = np.where(below, 0, a_B), np.where(below, alone_B, b_B)
    return np.where(rising, mean_B, a_B), np.where(rising, 0, b_B)


def power(sizes_S: Values, targets_T: Values, errors_BS: Values, weights_S: Values) -> Fitted:
    """Fit b n^-c."""
    return _powers(sizes_S, targets_T, errors_BS, weights_S, floor=False)


def power_to_floor(sizes_S: Values, targets_T: Values, errors_BS: Values, weights_S: Values) -> Fitted:
    """Fit a + b n^-c."""
    return _powers(sizes_S, targets_T, errors_BS, weights_S, floor=True)


def _powers(sizes_S: Values, targets_T: Values, errors_BS: Values, weights_S: Values, *, floor: bool) -> Fitted:
    exponents_C = np.linspace(0.0 if not floor else 0.1, 1.6, 33 if not floor else 31)
    unit = sizes_S[-1]
    shapes = [lambda n, c=c: (n / unit) ** -c for c in exponents_C]
    prior_C = ((exponents_C - EXPONENT) / SPREAD) ** 2
    return _grid(sizes_S, targets_T, errors_BS, weights_S, shapes, prior_C, floor=floor)


def exponential(sizes_S: Values, targets_T: Values, errors_BS: Values, weights_S: Values) -> Fitted:
    """Fit a + b exp(-n / c)."""
    rates_C = np.geomspace(0.5, 32, 19) / sizes_S[-1]
    shapes = [lambda n, rate=rate: np.exp(-rate * n) for rate in rates_C]
    return _grid(sizes_S, targets_T, errors_BS, weights_S, shapes, np.zeros(len(rates_C)), floor=True)


def logarithm(sizes_S: Values, targets_T: Values, errors_BS: Values, weights_S: Values) -> Fitted:
    """Fit a - b log n, and not below 0."""
    top = np.log(targets_T.max())
    found = _grid(
        sizes_S, targets_T, errors_BS, weights_S, [lambda n: top - np.log(n)], np.zeros(1), floor=True
    )  # the floor is then the error at the largest target, which is not below 0
    return Fitted(found.at, found.misfit, 2)


def probit(sizes_S: Values, targets_T: Values, errors_BS: Values, weights_S: Values) -> Fitted:
    """Fit Phi(a - b log n): a straight line on the scale of the normal distribution, where noise is alike."""
    bounded_BS = np.clip(errors_BS, 1e-4, 1 - 1e-4)
    scores_BS, middle_S = _quantile(bounded_BS), _quantile(bounded_BS.mean(0))
    slopes_S = np.exp(-np.square(middle_S) / 2) / np.sqrt(2 * np.pi)
    logs_S, logs_T = np.log(sizes_S / sizes_S[-1]), np.log(targets_T / sizes_S[-1])
    inner_S = weights_S * np.square(slopes_S)
    mean, mean_B = inner_S @ logs_S / inner_S.sum(), scores_BS @ inner_S / inner_S.sum()
    varies = max(float(inner_S @ (logs_S - mean) ** 2), 1e-300)
    slope_B = np.minimum((scores_BS - mean_B[:, None]) @ (inner_S * (logs_S - mean)) / varies, 0)
    at_BT, fitted_BS = (_cumulative(mean_B[:, None] + slope_B[:, None] * (logs - mean)) for logs in (logs_T, logs_S))
    return Fitted(at_BT, np.square(errors_BS - fitted_BS) @ weights_S, 2)


FAMILIES = {
    "power": power,
    "power to floor": power_to_floor,
    "logarithm": logarithm,
    "exponential": exponential,
    "probit": probit,
}
"""Name -> function from sizes [S], targets [T], errors [B, S] and weights [S] to the fits."""

PRIOR = {"power": 0.25, "power to floor": 0.5, "logarithm": 0.03, "exponential": 0.12, "probit": 0.1}
"""How much a family is believed before any curve is seen. In 81 back-tests on five data sets, to twice as many images,
the root mean square errors were 1.5, 1.4, 2.8, 1.8 and 1.9 points, to four times 2.2, 1.6, 4.9, 3.3 and 3.3, and
logarithms foretold too much, exponentials too little."""

_NORMAL = NormalDist()
_TABLE = np.linspace(-4.5, 4.5, 1801)
_SHARES = np.array([_NORMAL.cdf(score) for score in _TABLE])


def _quantile(shares: Values) -> Values:
    """Return the scores below which a normal variable lies with these probabilities, by a table."""
    made: Values = np.interp(shares, _SHARES, _TABLE)
    return made


def _cumulative(scores: Values) -> Values:
    made: Values = np.interp(scores, _TABLE, _SHARES)
    return made
