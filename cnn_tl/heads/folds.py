"""Stratified folds and samples, by seed.

scikit-learn's `StratifiedKFold` deals other folds, so other penalties and other weights would be the result; and its
import takes longer than many fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of

HELD_OUT_IMAGES = 2_000
"""Of about so many images a head keeps held-out logits, where each costs time. An error rate of 5% is then known to
within one point, with 95% confidence."""


def stratified_folds(
    labels_N: NDArray[np.int64], folds: int, seed: int, groups_N: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return a fold in 0..folds-1 for each image; every class is distributed evenly.

    Args:
        groups_N: the group of each image; a group lies in one fold. Groups without which a class would have no image
            to fit have the number `folds`: they are never held out. None: each image is alone, and held out.
    """
    chance = np.random.default_rng(seed_of(seed, "folds"))
    if groups_N is not None:
        return _grouped_folds(labels_N, groups_N, folds, chance)
    fold_of = np.empty_like(labels_N)
    dealt = 0
    for k in range(int(labels_N.max()) + 1):
        members = chance.permutation(np.flatnonzero(labels_N == k))
        fold_of[members] = (np.arange(len(members)) + dealt) % folds
        dealt += len(members)
    return fold_of


def _grouped_folds(
    labels_N: NDArray[np.int64], groups_N: NDArray[np.int64], folds: int, chance: np.random.Generator
) -> NDArray[np.int64]:
    """Give each group, the largest first, to the fold that has the least of its classes."""
    sizes_K = np.bincount(labels_N)
    members = members_of(groups_N)
    order = sorted(chance.permutation(len(members)), key=lambda group: -len(members[group]))
    load_FK, total_F = np.zeros((folds, len(sizes_K))), np.zeros(folds)
    fold_of = np.full(len(labels_N), folds)
    whole = holds_whole_class(labels_N, members)
    for group in order:
        if whole[group]:
            continue
        classes, counts = np.unique(labels_N[members[group]], return_counts=True)
        own_F = load_FK[:, classes] @ (counts / sizes_K[classes])
        fold = np.lexsort((total_F, own_F))[0]
        load_FK[fold, classes] += counts
        total_F[fold] += len(members[group])
        fold_of[members[group]] = fold
    for k in np.flatnonzero((load_FK == sizes_K).any(0) & (sizes_K > 0)):
        _keep_some(fold_of, labels_N, members, int(k), folds)
    return fold_of


def _keep_some(
    fold_of: NDArray[np.int64], labels_N: NDArray[np.int64], members: list[NDArray[np.int64]], k: int, folds: int
) -> None:
    """Never hold out the smallest group of a class whose groups are all in one fold, if they still are."""
    own = [group for group in members if (labels_N[group] == k).any()]
    if len({int(fold_of[group[0]]) for group in own} | {folds}) == 2 and all(
        fold_of[group[0]] < folds for group in own
    ):
        fold_of[min(own, key=len)] = folds


def holds_whole_class(labels_N: NDArray[np.int64], members: Sequence[NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Return for each group, given its images, whether all images of a class are in it."""
    sizes_K = np.bincount(labels_N)
    found = np.zeros(len(members), np.bool_)
    for group, images in enumerate(members):
        counts_K = np.bincount(labels_N[images])
        found[group] = ((counts_K > 0) & (counts_K == sizes_K[: len(counts_K)])).any()
    return found


def indispensable(labels_N: NDArray[np.int64], groups_N: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Return for each image whether a class would be without images if it, or its group, were held out."""
    if groups_N is None:
        return np.bincount(labels_N)[labels_N] == 1  # type: ignore[no-any-return]
    members, found_N = members_of(groups_N), np.empty(len(labels_N), np.bool_)
    for images, whole in zip(members, holds_whole_class(labels_N, members), strict=True):
        found_N[images] = whole
    return found_N


def first_folds(fold_N: NDArray[np.int64], folds: int, images: int) -> NDArray[np.int64]:
    """Return the first folds, of those that are not empty, with about so many images together, else all."""
    images_F = np.bincount(fold_N, minlength=folds)[:folds]
    used_F = np.flatnonzero(images_F)
    surplus_F = np.cumsum(images_F[used_F]) - images
    return used_F[: 1 + np.argmin(np.abs(surplus_F))] if len(used_F) else used_F


def members_of(groups_N: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the images of each group, ascending; the groups in the order of their numbers."""
    order = np.argsort(groups_N, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups_N[order])) + 1)


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
