"""Images that are the same: equal files, equal pixels, and groups of twins.

Shapes: N images, P pairs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Ints = NDArray[np.int64]


def equal_bytes(digests: Iterable[str]) -> Ints:
    """Return pairs (first image, later image with the same bytes), [P, 2]: one for each later image, not all pairs."""
    return _stars(enumerate(digests))


def equal_pixels(
    indices: Ints, thumbnails: NDArray[np.uint8], sizes: list[tuple[int, int]], open_image: Callable[[int], Image.Image]
) -> Ints:
    """Return pairs (first image, later image with the same pixels but other bytes), [P, 2].

    Only images of one size with equal thumbnails are decoded.

    Args:
        indices: the images to compare, one of each that have equal bytes.
    """
    alike = defaultdict(list)
    for index in indices.tolist():
        alike[(*sizes[index], hashlib.sha256(thumbnails[index].tobytes()).digest())].append(index)
    several = (index for group in alike.values() if len(group) > 1 for index in group)
    return _stars((index, hashlib.sha256(_pixels(open_image(index))).digest()) for index in several)


def _pixels(image: Image.Image) -> bytes:
    return repr(image.size).encode() + image.convert("RGB").tobytes()


def _stars(keyed: Iterable[tuple[int, Hashable]]) -> Ints:
    first: dict[Hashable, int] = {}
    pairs = [(first.setdefault(key, index), index) for index, key in keyed]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def groups_of(count: int, verified_P2: Ints) -> Ints:
    """Return the group of each image, numbered from 0 by their first image; -1: it has no twin, [N].

    A group is what verified pairs connect, also by way of others: the first and the last frame of a slow series may
    have little in common. Pairs below the threshold never connect, however high they stand.
    """
    parent = np.arange(count)

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = int(parent[index])
        return index

    for a, b in verified_P2.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    roots = np.array([root(index) for index in range(count)], np.int64)
    _, groups, sizes = np.unique(roots, return_inverse=True, return_counts=True)
    numbers = np.where(sizes > 1, np.cumsum(sizes > 1) - 1, -1)
    return np.asarray(numbers[groups.reshape(-1)], np.int64)
