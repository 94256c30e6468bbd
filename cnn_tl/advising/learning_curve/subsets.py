"""Which images are fitted, and which are judged: nested subsets of what each fold leaves.

In each draw one fold is held out. The subsets of the rest are prefixes of one random order in which every class is as
frequent everywhere as in all images, so they are stratified and nested. A group is held out or fitted as a whole.

Shapes: N images, K classes, S sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import DataError
from cnn_tl.core.formatting import counted
from cnn_tl.core.seeds import seed_of
from cnn_tl.heads.folds import members_of, stratified_folds

Indices = NDArray[np.int64]

SIZES = 8
LEAST = 2
"""Images per class, on average, of the smallest subset."""

SPAN = 128
"""The largest subset is at most so many times the smallest: what a few images teach says little about many."""

LEAST_STEP = 1.1
"""The ratio of two sizes."""

LEAST_IMAGES = 6
"""Below this no curve can be measured."""


def sizes_up_to(most: int, num_classes: int, count: int = SIZES) -> list[int]:
    """Return at most `count` numbers of images to fit, ascending.

    The last ones are `most` and half of it; the others go down in equal ratios, to `LEAST` images per class or to a
    `SPAN`th of `most`. Where most classes have a few images, the sizes go down to one of each, and some are above half.
    """
    first = min(max(LEAST * num_classes, 4, most / SPAN), max(most / 8, num_classes, 2))
    if most < 8 * first:
        sizes = np.geomspace(min(first, most / 2), most, count)
        sizes[np.argmin(np.abs(np.log(sizes[:-1] / (most / 2))))] = most / 2
        return sorted({*(round(size) for size in sizes)})
    return sorted({*(round(size) for size in np.geomspace(first, most / 2, count - 1)), most})


@dataclass(frozen=True)
class Draw:
    """One draw.

    Attributes:
        judged: the images held out, ascending.
        order: the others in the order in which subsets take them.
        ends: after which images of `order` a subset may end; elsewhere it would divide a group.
    """

    judged: Indices
    order: Indices
    ends: Indices

    def subset(self, size: int) -> Indices:
        """Return about `size` images to fit, ascending: the first ones of the order."""
        end = self.ends[np.argmin(np.abs(self.ends - size))]
        return np.sort(self.order[:end])


def draws_of(labels_N: Indices, groups_N: Indices | None, num_draws: int, seed: int) -> list[Draw]:
    """Return the draws; together they judge each image once, but those without which a class could not be fitted.

    Raises:
        DataError: there are too few images, or classes, for any.
    """
    num_classes = int(labels_N.max(initial=0)) + 1
    counts_K = np.bincount(labels_N, minlength=num_classes)
    if len(labels_N) < LEAST_IMAGES or (counts_K > 1).sum() < 2:
        raise DataError(
            f"{counted(len(labels_N), 'image')} of {counted(num_classes, 'class')}, of which "
            f"{int((counts_K > 1).sum())} with more than one image: a learning curve needs at least {LEAST_IMAGES} "
            "images, and two classes with two images each"
        )
    fold_N = _folds(labels_N, groups_N, num_draws, seed)
    units = members_of(np.arange(len(labels_N)) if groups_N is None else groups_N)
    made = []
    for fold in range(num_draws):
        judged = np.flatnonzero(fold_N == fold)
        if len(judged):
            kept = [unit for unit in units if fold_N[unit[0]] != fold]
            made.append(_draw(judged, kept, labels_N, num_classes, seed_of(seed, "learning curve", fold)))
    if not made:
        raise DataError("each class is one group of images, so none can be held out; a learning curve needs two groups")
    return made


def distinct(draws: Sequence[Draw], sizes: Sequence[int]) -> list[int]:
    """Return the sizes without those that give nearly the same subsets as the next: groups are not divided."""
    fitted = [float(np.mean([len(draw.subset(size)) for draw in draws])) for size in sizes]
    kept, above = [sizes[-1]], fitted[-1]
    for size, own in zip(sizes[-2::-1], fitted[-2::-1], strict=True):
        if own * LEAST_STEP <= above:
            kept, above = [size, *kept], own
    return kept


def _folds(labels_N: Indices, groups_N: Indices | None, folds: int, seed: int) -> Indices:
    """Return the fold of each image; `folds`: it is never held out."""
    fold_N = stratified_folds(labels_N, folds, seed_of(seed, "learning curve"), groups_N)
    fold_N[np.bincount(labels_N)[labels_N] == 1] = folds  # alone in its class
    return fold_N


def _draw(judged: Indices, units: list[Indices], labels_N: Indices, num_classes: int, seed: int) -> Draw:
    chance = np.random.default_rng(seed)
    counts_K = np.bincount(labels_N[np.concatenate(units)], minlength=num_classes)
    class_of = [int(np.bincount(labels_N[unit]).argmax()) for unit in units]
    taken_K, keys = np.zeros(num_classes), np.empty(len(units))
    for place in chance.permutation(len(units)):
        own = class_of[place]
        # the first unit of each class comes before all others, so that no subset lacks a class
        keys[place] = (taken_K[own] + chance.random()) / counts_K[own] if taken_K[own] else chance.random() - 1
        taken_K[own] += len(units[place])
    ordered = [units[place] for place in np.argsort(keys, kind="stable")]
    lengths = np.array([len(unit) for unit in ordered])
    return Draw(judged, np.concatenate(ordered), np.cumsum(lengths))
