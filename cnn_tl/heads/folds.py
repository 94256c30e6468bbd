"""Stratified folds and samples, by seed.

scikit-learn's `StratifiedKFold` deals other folds, so other penalties and other weights would be the result; and its
import takes longer than many fits.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of


def stratified_folds(labels_N: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return a fold in 0..folds-1 for each image; every class is distributed evenly."""
    chance = np.random.default_rng(seed_of(seed, "folds"))
    fold_of = np.empty_like(labels_N)
    dealt = 0
    for k in range(int(labels_N.max()) + 1):
        members = chance.permutation(np.flatnonzero(labels_N == k))
        fold_of[members] = (np.arange(len(members)) + dealt) % folds
        dealt += len(members)
    return fold_of


def stratified_sample(labels_N: NDArray[np.int64], size: int, least: int, seed: int) -> NDArray[np.int64]:
    """Return the sorted indices of about `size` images: of each class in proportion, but at least `least`."""
    if len(labels_N) <= size:
        return np.arange(len(labels_N))
    chance = np.random.default_rng(seed_of(seed, "penalty sample"))
    chosen = []
    for k in range(int(labels_N.max()) + 1):
        members = np.flatnonzero(labels_N == k)
        count = max(least, math.ceil(size * len(members) / len(labels_N)))
        chosen.append(chance.permutation(members)[:count])
    return np.sort(np.concatenate(chosen))
