"""A batch of source images of different sizes in one tensor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SourceBatch:
    """Sources of N images on one device: RGB images of any size.

    Attributes:
        pixels: uint8 [P, 3], the pixels of images, each image row by row; other images and gaps may lie between.
        starts: int64 [N] on the device, the index in `pixels` of each image's first pixel.
        heights, widths: int64 [N] on the device, in pixels.
    """

    pixels: Tensor
    starts: Tensor
    heights: Tensor
    widths: Tensor
