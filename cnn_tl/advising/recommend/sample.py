"""The images on which backbones are judged: a stratified sample that grows without losing an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cnn_tl.core.seeds import seed_of
from cnn_tl.data.manifest import ImageRecord

LEAST_PER_CLASS = 2
"""Images of a class in the smallest sample: one to fit, one to judge."""


@dataclass(frozen=True)
class Sample:
    """All images that may be sampled, class by class in random order.

    Attributes:
        by_class: the images of each class.
    """

    by_class: Sequence[Sequence[ImageRecord]]

    def __len__(self) -> int:
        """Return the number of all images."""
        return sum(map(len, self.by_class))

    def first(self, size: int) -> list[ImageRecord]:
        """Return about `size` images: of each class in proportion, but at least a few; a larger sample holds them."""
        share = min(1.0, size / max(len(self), 1))
        counts = (max(LEAST_PER_CLASS, math.ceil(share * len(own) - 1e-9)) for own in self.by_class)
        return [image for own, count in zip(self.by_class, counts, strict=True) for image in own[:count]]


def sample_of(images: Sequence[ImageRecord], num_classes: int, seed: int) -> Sample:
    """Return the sample of some images; of equal files only the first one, or folds would share them."""
    distinct = {image.sha256: image for image in reversed(images)}.values()
    chance = np.random.default_rng(seed_of(seed, "recommend", "sample"))
    by_class: list[list[ImageRecord]] = [[] for _ in range(num_classes)]
    for image in sorted(distinct, key=lambda image: image.path):
        by_class[image.label].append(image)
    return Sample([[own[index] for index in chance.permutation(len(own))] for own in by_class])
