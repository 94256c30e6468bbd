"""Calibration: the factor that turns scores into calibrated logits, and the temperature of a trained network."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays, HostArrays

FACTORS = (0.1, 1e4)
"""The search range of the factor of scores."""

TEMPERATURES = (0.1, 10.0)
"""The search range of a temperature."""

UNSEEN = 1.0
"""Pseudo-count for smoothing: the number of imaginary images, spread over all classes, that are added to the data."""

SPREAD = math.log(2)
"""Standard deviation of the prior of log T: most trained networks lie between T = 1/2 and T = 2."""

TOLERANCE = 1e-3
"""Of the logarithm of a factor or temperature: a tenth of a percent."""

Scores = NDArray[np.float64]


def best_factor(
    scores_NK: Array, labels_N: NDArray[np.int64], weights_N: NDArray[np.float64], arrays: Arrays | None = None
) -> tuple[float, float]:
    """Return the factor of the scores with the highest likelihood of the labels, and the weighted mean log likelihood.

    The scores must be those of images that were left out of the fit. The targets are smoothed by 1 / (N + 1), as in
    Platt (1999, sec. 2.2): if hardly any left-out image is wrong, the likelihood alone would make the factor
    arbitrarily large, and the first wrong answer later would be extremely confident.

    Args:
        arrays: where the scores lie; by default on the host.
    """
    shares_N = weights_N / weights_N.sum()
    loss = _loss_of(scores_NK, labels_N, shares_N, _smoothing(labels_N), arrays or HostArrays())
    log_factor = _minimum(lambda log_f: loss(log_f)[1], FACTORS)
    return math.exp(log_factor), -loss(log_factor)[0]


def temperature_of(logits_NK: Scores, labels_N: NDArray[np.int64]) -> float:
    """Return the temperature by which to divide a network's logits; it never increases the loss of the given images.

    It minimises the sum of the images' log losses + (log T / SPREAD)^2 / 2: the posterior mode under a prior around T =
    1, so few images, or uninformative ones, change it little. It goes below 1, which makes a network more confident,
    only as far as with smoothed targets (see `best_factor`): too few mistakes do not justify certainty.

    The loss of the images is convex in 1 / T and no higher at the minimum than at T = 1, so it is not higher in
    between.
    """
    images = np.ones(len(labels_N))

    def minimum(smoothing: float) -> float:
        loss = _loss_of(logits_NK, labels_N, images, smoothing, HostArrays())
        return _minimum(lambda log_t: log_t / SPREAD**2 - loss(-log_t)[1], TEMPERATURES)

    log_t = minimum(0.0)
    if log_t < 0:
        log_t = min(0.0, max(log_t, minimum(_smoothing(labels_N))))
    return math.exp(log_t)


def _smoothing(labels_N: NDArray[np.int64]) -> float:
    return UNSEEN / (len(labels_N) + UNSEEN)


def _loss_of(
    scores_NK: Array, labels_N: NDArray[np.int64], weights_N: NDArray[np.float64], smoothing: float, arrays: Arrays
) -> Callable[[float], tuple[float, float]]:
    """Return the function from the logarithm of a factor to the weighted sum of the log losses of factor * scores.

    It returns the derivative by this logarithm too.
    """
    xp = arrays.xp
    each, labels, weights = arrays.put(np.arange(len(labels_N))), arrays.put(labels_N), arrays.put(weights_N)
    shifted_NK = scores_NK - xp.amax(scores_NK, 1)[:, None]
    right_N = shifted_NK[each, labels]
    target_N = (1 - smoothing) * right_N + smoothing * xp.mean(shifted_NK, 1)

    def loss(log_factor: float) -> tuple[float, float]:
        factor = math.exp(log_factor)
        powers_NK = xp.exp(factor * shifted_NK)
        sums_N = xp.sum(powers_NK, 1)
        expected_N = xp.sum(powers_NK * shifted_NK, 1) / sums_N
        value, slope = weights @ (xp.log(sums_N) - factor * target_N), factor * (weights @ (expected_N - target_N))
        return float(value), float(slope)

    return loss


def _minimum(slope: Callable[[float], float], between: tuple[float, float]) -> float:
    """Return the minimum of a function of a logarithm in a range, by bisection of its derivative.

    The log loss has only one minimum in the factor.
    """
    low, high = map(math.log, between)
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        found = slope(middle)
        if found == 0:
            return middle
        low, high = (middle, high) if found < 0 else (low, middle)
    return (low + high) / 2
