"""Numbers that describe an image's light, colour, sharpness and border, whatever it shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MEASURES = (
    *("brightness", "contrast", "dark", "light", "sharpness", "detail"),
    *("red", "green", "blue", "saturation"),
    *("border_red", "border_green", "border_blue", "border_contrast"),
)
"""Columns of what `measure` returns.

brightness, contrast: mean and standard deviation of the luma, 0 to 255. dark, light: the 5th and 95th percentile of it.
sharpness: standard deviation of its Laplacian; detail: mean absolute difference of neighbouring pixels. red, green,
blue, saturation: means. border_...: means over a frame of 4% of the side, and the standard deviation of its luma.
"""

VERSION = 1
"""Increased with every change of a number here: cached measures are then computed again."""

_FRAME = 0.04

Measured = NDArray[np.float32]


def measure(image: Image.Image, side: int) -> Measured:
    """Return the measures of an RGB image, float32 [M].

    Args:
        side: the shorter side that the network sees; a larger image is reduced to it first, a smaller one stays as it
            is, so that blur is judged at the size that counts.
    """
    if min(image.size) > side:
        scale = side / min(image.size)
        longest = 8 * side  # a strip stays small
        size = tuple(min(max(1, round(scale * length)), longest) for length in image.size)
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)  # type: ignore[arg-type]
    pixels_HW3 = np.asarray(image, np.float32)
    luma_HW = pixels_HW3 @ np.array([0.299, 0.587, 0.114], np.float32)
    red, green, blue = pixels_HW3.mean((0, 1))
    saturation = float((pixels_HW3.max(2) - pixels_HW3.min(2)).mean())
    frame = _frame(luma_HW.shape)
    border_3 = pixels_HW3[frame].mean(0)
    dark, light = np.percentile(luma_HW, (5, 95))
    found = [
        *(luma_HW.mean(), luma_HW.std(), dark, light, _laplacian(luma_HW).std(), _detail(luma_HW)),
        *(red, green, blue, saturation, *border_3, luma_HW[frame].std()),
    ]
    return np.array(found, np.float32)


def _laplacian(luma_HW: Measured) -> Measured:
    padded = np.pad(luma_HW, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return np.asarray(around - 4 * luma_HW, np.float32)


def _detail(luma_HW: Measured) -> float:
    steps = [np.abs(np.diff(luma_HW, axis=axis)) for axis in (0, 1)]
    total = sum(each.size for each in steps)
    return float(sum(float(each.sum()) for each in steps) / total) if total else 0.0


def _frame(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which pixels lie on the frame, [H, W]."""
    frame = np.ones(shape, bool)
    top, left = (max(1, round(_FRAME * length)) for length in shape)
    frame[top : shape[0] - top, left : shape[1] - left] = False
    return frame
