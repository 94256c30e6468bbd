"""The image that random views are cut from: decoded and upright, and no larger than the views can show.

It is a pure function of the file's bytes and one number, so it may be kept: a view cut from a kept image is the view
cut from one that was decoded just now. A row is how it is kept: a fixed number of bytes, however long or wide it is.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import ImageLimits, read_image
from cnn_tl.data.views.augment import Augmentation
from cnn_tl.data.views.transforms import FILTERS

Row = NDArray[np.uint8]

FILTER = "bicubic"
"""Scales sources down, antialiased, whatever the network's own filter is: networks of one size share them."""

STEP = 32
"""Sides are multiples of this, so that settings which differ little share their images."""

_ROW_SIDES = tuple(side << power for power in range(12) for side in (32, 48))
_HEAD = 8
"""Bytes of a row before the pixels: width and height, four each, the lower first."""


def source_side(spec: Preprocessing, settings: Augmentation) -> int:
    """Return the side, in pixels, of a square with the area of a source.

    The smallest crop that is drawn then has about as many pixels as the network takes, fewer only of an image with
    other proportions than the network's input.
    """
    return STEP * math.ceil(math.sqrt(spec.height * spec.width / settings.crop_scale_min) / STEP)


def read_source(file: Path | bytes, spec: Preprocessing, side: int) -> Image.Image:
    """Decode an image, RGB; one with more than `side`^2 pixels is scaled down to that many, its proportions kept.

    A JPEG may be decoded at a part of its size, never below twice what it is then scaled to.

    Args:
        spec: its limits decide which images are refused; it changes none.

    Raises:
        BadImageError: the image cannot be read, or is outside the limits of the specification.
    """
    image = read_image(file, ImageLimits(spec.max_pixels, spec.min_side), draft=(2 * side, 2 * side))
    size = _fitting(image.width, image.height, side * side)
    return image if size == image.size else image.resize(size, FILTERS[FILTER])


def row_sides(side: int) -> list[int]:
    """Return the sides that a row may have, in rising order, the last for an image that was scaled down."""
    return [*(smaller for smaller in _ROW_SIDES if smaller < side), side]


def row_side(width: int, height: int, side: int) -> int:
    """Return the side of the row in which an image of this size, in pixels, is kept."""
    return next((fitting for fitting in row_sides(side) if width * height <= fitting * fitting), side)


def row_bytes(side: int) -> int:
    """Return how many bytes a row has."""
    return _HEAD + 3 * side * side


def pack(image: Image.Image, side: int) -> Row:
    """Return a source as the shortest row that has room for it; the rest of the row is zero."""
    row = np.zeros(row_bytes(row_side(image.width, image.height, side)), np.uint8)
    row[:_HEAD] = np.array(image.size, "<u4").view(np.uint8)
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    row[_HEAD : _HEAD + len(pixels)] = pixels
    return row


def unpack(row: Row) -> Image.Image:
    """Return the image of a row."""
    width, height = (int(length) for length in row[:_HEAD].view("<u4"))
    return Image.frombuffer("RGB", (width, height), row[_HEAD : _HEAD + 3 * width * height], "raw", "RGB", 0, 1)


def _fitting(width: int, height: int, most: int) -> tuple[int, int]:
    """Return the size with at most `most` pixels; a strip that would become thinner than a pixel is squeezed."""
    if width * height <= most:
        return width, height
    factor = math.sqrt(most / (width * height))
    fitting = min(max(1, int(factor * width)), most)
    return fitting, min(max(1, int(factor * height)), most // fitting)
