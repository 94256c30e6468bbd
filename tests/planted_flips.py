"""Features of classes that overlap a little, with wrong labels planted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES, DIMENSIONS = 4, 64


@dataclass(frozen=True)
class Blobs:
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    truth: NDArray[np.int64]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return self.labels != self.truth


def blobs(each: int = 100, *, share: float = 0.1, one_way: bool = False, apart: float = 0.55, seed: int = 0) -> Blobs:
    """Return `each` images of four classes, a share of them labelled as another class, or all as the next one."""
    chance = np.random.default_rng([seed, 21])
    truth = np.repeat(np.arange(CLASSES), each)
    centres = chance.normal(size=(CLASSES, DIMENSIONS)) * apart
    features = np.abs(2 + centres[truth] + chance.normal(size=(len(truth), DIMENSIONS))) ** 2
    labels = truth.copy()
    flipped = chance.permutation(len(truth))[: round(share * len(truth))]
    labels[flipped] += 1 if one_way else chance.integers(1, CLASSES, len(flipped))
    return Blobs(features.astype(np.float32), labels % CLASSES, truth)


def average_precision(score: NDArray[np.float64], wrong: NDArray[np.bool_]) -> float:
    """Return the mean, over the wrong ones, of the precision where the ranking reaches each."""
    hits = wrong[np.argsort(-score, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
