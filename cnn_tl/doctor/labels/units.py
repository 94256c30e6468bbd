"""Units: images that are left out together, as twins are. A copy of a wrong label would vouch for it.

Shapes: N images, U units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of
from cnn_tl.heads.folds import members_of, stratified_folds

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Units:
    """The unit of each image.

    Attributes:
        of_image: in 0..U-1, [N].
        first: the first image of each unit, [U].
        sizes: how many images a unit has, [U].
    """

    of_image: Indices
    first: Indices
    sizes: Indices

    def folds(self, labels_N: Indices, folds: int, seed: int) -> Indices:
        """Return a fold for each image, [N]; no unit is in two, and classes are distributed evenly, unit by unit.

        Every image is held out, to be judged; the grouped folds of heads exempt those without which a class is empty.
        """
        return stratified_folds(labels_N[self.first], folds, seed)[self.of_image]

    def sample(self, size: int, seed: int) -> Indices:
        """Return the sorted images of random units, about `size` images, or all."""
        if len(self.of_image) <= size:
            return np.arange(len(self.of_image))
        order_U = np.random.default_rng(seed_of(seed, "labels", "sample")).permutation(len(self.sizes))
        kept = order_U[: 1 + np.searchsorted(np.cumsum(self.sizes[order_U]), size)]
        return np.flatnonzero(np.isin(self.of_image, kept))

    def shared(self, images: Indices | None = None) -> list[Indices]:
        """Return the units with several images, each as indices into `images` (by default all)."""
        of_image = self.of_image if images is None else self.of_image[images]
        return [part for part in members_of(of_image) if len(part) > 1]

    def companions(self, labels_N: Indices, num_classes: int) -> Indices:
        """Return how many images of the own class are outside of the own unit, [N]."""
        counts_K = np.bincount(labels_N, minlength=num_classes)
        pair_N = self.of_image * num_classes + labels_N
        _, which, inside = np.unique(pair_N, return_inverse=True, return_counts=True)
        others_N: Indices = counts_K[labels_N] - inside[which]
        return others_N


def units_of(groups_N: Indices | None, images: int) -> Units:
    """Return the units that groups make.

    Args:
        groups_N: the group of each image; a negative one: the image is alone. None: all are.
    """
    alone = np.arange(images)
    if groups_N is not None:
        most = int(groups_N.max(initial=-1)) + 1
        alone = np.where(groups_N < 0, most + alone, groups_N)
    _, first, of_image, sizes = np.unique(alone, return_index=True, return_inverse=True, return_counts=True)
    return Units(of_image, first, sizes)
