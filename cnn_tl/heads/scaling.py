"""Scales features for a fit, and folds the scaling back into the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.problem import Features, FittedHead, linear_head

TEMPERED = 0.5
"""The exponent for linear heads with a penalty, which holds back features that hardly vary among the training images.

Divided by their whole deviation, such features are as large as any other: where they do vary, in a few later images,
they outvote the rest. Not divided at all, many informative ones are held back as well. The guide to mode freeze has the
measurements. Class means have no penalty; for them the whole deviation is better.
"""


@dataclass(frozen=True)
class Scaling:
    """Maps x to (x - mean) / scale, feature by feature; mean and scale are float32 [D]."""

    mean: Features
    scale: Features
    exponent: float

    def __call__(self, features_RD: Features) -> Features:
        """Return the scaled features."""
        return (features_RD - self.mean) / self.scale

    def folded(self, weight_KD: NDArray[Any], bias_K: NDArray[Any], facts: dict[str, Any]) -> FittedHead:
        """Return the head on raw features that equals the given one on scaled features; its facts say which scaling."""
        raw_KD = weight_KD.astype(np.float64) / self.scale
        return linear_head(raw_KD, bias_K - raw_KD @ self.mean, facts | {"scaling_exponent": self.exponent})


ROWS_AT_ONCE = 64
"""Rows whose squares are summed at once: their float64 copy stays in the processor's cache."""


def scaling_of(features_RD: Features, exponent: float = 1.0) -> Scaling:
    """Measure the features' means, and scale them in proportion to their standard deviations ** exponent.

    Scaled features have a mean variance of 1. One that is constant, except for rounding, keeps its scale.
    """
    mean = features_RD.mean(0, dtype=np.float64)
    deviation = np.sqrt(_squares(features_RD, mean) / len(features_RD))
    changes = deviation > 1e-6 * np.maximum(np.abs(mean), max(deviation.max(), 1e-12))
    scale, varying = np.ones(len(mean)), deviation[changes]
    if len(varying):
        scale[changes] = varying**exponent * np.sqrt(np.mean(varying ** (2 - 2 * exponent)))
    return Scaling(mean.astype(np.float32), scale.astype(np.float32), exponent)


def _squares(features_RD: Features, mean_D: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the squared differences from the mean, added row by row as `numpy.std` does."""
    buffer = np.zeros((ROWS_AT_ONCE + 1, features_RD.shape[1]))
    for start in range(0, len(features_RD), ROWS_AT_ONCE):
        part = features_RD[start : start + ROWS_AT_ONCE]
        rows = buffer[1 : len(part) + 1]
        np.subtract(part, mean_D, out=rows)
        np.square(rows, out=rows)
        buffer[0] = buffer[: len(part) + 1].sum(0)
    total_D: NDArray[np.float64] = buffer[0].copy()
    return total_D
