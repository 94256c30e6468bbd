"""Images of any size in one tensor, one after the other, and where each of them lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SPARE = 1.1
"""A tensor that turned out too small is replaced by one of this many times the size needed."""


class NoRoom(Exception):  # noqa: N818 - never leaves `sources`
    """The images take more memory than they may."""


class PixelBuffer:
    """Pixels uint8 [P, 3] of images; it grows, up to a limit.

    Args:
        expected: number of pixels that it first has room for.
        most: maximum number of pixels.
    """

    def __init__(self, expected: int, most: int, device: torch.device) -> None:
        self._most, self._device = most, device
        self._pixels = self._empty(min(expected, most))
        self._end = 0
        self._places: list[NDArray[np.int64]] = []

    def append(self, pixels: Tensor, sizes: Sequence[tuple[int, int]]) -> None:
        """Add images.

        Args:
            pixels: uint8 [P, 3], one image after the other, and nothing else.
            sizes: height and width of each.

        Raises:
            NoRoom: they would take more than the limit.
        """
        end = self._end + len(pixels)
        if end > len(self._pixels):
            if end > self._most:
                raise NoRoom
            larger = self._empty(min(int(SPARE * end), self._most))
            larger[: self._end] = self._pixels[: self._end]
            self._pixels = larger
        self._pixels[self._end : end].copy_(pixels, non_blocking=True)
        heights, widths = np.array(sizes, np.int64).reshape(-1, 2).T
        starts = self._end + np.cumsum(heights * widths) - heights * widths
        self._places.append(np.stack([starts, heights, widths]))
        self._end = end

    @property
    def pixels(self) -> Tensor:
        """The tensor; its end may be unused."""
        return self._pixels

    @property
    def room(self) -> int:
        """Number of pixels that it has room for without growing."""
        return len(self._pixels)

    @property
    def nbytes(self) -> int:
        """Number of bytes in use."""
        return 3 * self._end

    @property
    def places(self) -> NDArray[np.int64]:
        """Where the images lie, int64 [3, N]: index of the first pixel, height and width."""
        return np.concatenate(self._places, axis=1)

    def _empty(self, pixels: int) -> Tensor:
        return torch.empty(pixels, 3, dtype=torch.uint8, device=self._device)
