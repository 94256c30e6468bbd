"""How far values lie from the rest of their set and class, in units that a few odd ones do not change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

FEWEST = 5
"""Among fewer values none can be called odd."""

_CLASS_COUNTS = 20
"""From this many images on, a class is a standard of its own beside the whole set."""


def excess(values: Values, labels: NDArray[np.int64], *, smallest: float) -> Values:
    """Return how far each value lies above the others, in robust standard deviations.

    An image counts as odd only if it is odd in the whole set and in its class: the smaller of both is returned. The
    standard deviation is that of the upper side alone, so that a skewed distribution has no false alarms on its long
    side.

    Args:
        values: [N], NaN where there is none. labels: of the classes, [N].
        smallest: the least standard deviation, so that a value that is constant makes no noise an outlier.

    Returns:
        [N], negative below the median, NaN where `values` is or if there are too few.
    """
    found = _excess(values, smallest)
    for label in np.unique(labels):
        own = labels == label
        if own.sum() >= _CLASS_COUNTS:
            found[own] = np.fmin(found[own], _excess(values[own], smallest))
    return found


def _excess(values: Values, smallest: float) -> Values:
    known = values[np.isfinite(values)]
    if len(known) < FEWEST:
        return np.full(len(values), np.nan)
    median, deviation = upper_spread(known)
    return np.asarray((values - median) / max(deviation, smallest))


def upper_spread(values: Values) -> tuple[float, float]:
    """Return the median of finite values and a robust standard deviation of those above it.

    The larger of two estimates: the median absolute deviation, which half of the values must leave to be lost, and
    the distance of the 90th percentile, which sees a second group that is no minority of oddities. Both are widened
    for few values, whose median deviation varies.
    """
    median = float(np.median(values))
    away = values - median
    middle = 1.4826 * float(np.median(np.abs(away)))
    outer = float(np.quantile(away, 0.9)) / 1.2816
    return median, max(middle, outer) * (1 + 4 / len(values))
