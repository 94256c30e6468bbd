"""The source image from which random views are cropped: upright RGB, and no larger than the views can use.

A source is a pure function of the file's bytes and one number, so it can be cached: a view of a cached source equals
the view of one that was just decoded. In the cache it is a row of one of a few fixed numbers of bytes.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.views.augment import Augmentation
from cnn_tl.data.views.transforms import FILTERS

Row = NDArray[np.uint8]

FILTER = "bicubic"
"""Scales sources down, antialiased, whatever the network's own filter: networks of the same size share sources."""

STEP = 32
"""Sides are multiples of this, so that similar settings share sources."""

_ROW_SIDES = tuple(side << power for power in range(12) for side in (32, 48))
_HEAD = 8
"""Bytes of a row before the pixels: width and height, four each, little-endian."""


def source_side(spec: Preprocessing, settings: Augmentation) -> int:
    """Return the side, in pixels, of a square with the area of a source.

    The smallest random crop then has about as many pixels as the network's input; fewer only if the image has another
    aspect ratio than the input.
    """
    return STEP * math.ceil(math.sqrt(spec.height * spec.width / settings.crop_scale_min) / STEP)


def read_source(file: Path | bytes, spec: Preprocessing, side: int) -> Image.Image:
    """Read an image with `read_image`, and scale it down to `side`^2 pixels if it has more, keeping its aspect ratio.

    A JPEG may be decoded at a fraction of its size, never below twice the size to which it is then scaled.

    Args:
        spec: only its limits on the size of images count here.

    Raises:
        BadImageError: the image cannot be read, or is outside the limits of the specification.
    """
    image = read_image(file, spec, draft=(2 * side, 2 * side))
    size = _fitting(image.width, image.height, side * side)
    return image if size == image.size else image.resize(size, FILTERS[FILTER])


def row_sides(side: int) -> list[int]:
    """Return the sides that a row can have, in ascending order; the last is for images that were scaled down."""
    return [*(smaller for smaller in _ROW_SIDES if smaller < side), side]


def row_side(width: int, height: int, side: int) -> int:
    """Return the side of the row for an image of this size, in pixels."""
    return next((fitting for fitting in row_sides(side) if width * height <= fitting * fitting), side)


def row_bytes(side: int) -> int:
    """Return the number of bytes of a row."""
    return _HEAD + 3 * side * side


def pack(image: Image.Image, side: int) -> Row:
    """Return a source as the shortest row that it fits in; the rest of the row is zero."""
    row = np.zeros(row_bytes(row_side(image.width, image.height, side)), np.uint8)
    row[:_HEAD] = np.array(image.size, "<u4").view(np.uint8)
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    row[_HEAD : _HEAD + len(pixels)] = pixels
    return row


def unpack(row: Row) -> Image.Image:
    """Return the image of a row."""
    pixels = pixels_of(row)
    return Image.frombuffer("RGB", pixels.shape[1::-1], pixels, "raw", "RGB", 0, 1)


def pixels_of(row: Row) -> NDArray[np.uint8]:
    """Return the pixels [H, W, 3] of a row, without copying them."""
    width, height = (int(length) for length in row[:_HEAD].view("<u4"))
    return row[_HEAD : _HEAD + 3 * width * height].reshape(height, width, 3)


def _fitting(width: int, height: int, most: int) -> tuple[int, int]:
    """Return the size with at most `most` pixels; a strip that would become thinner than a pixel is distorted."""
    if width * height <= most:
        return width, height
    factor = math.sqrt(most / (width * height))
    fitting = min(max(1, int(factor * width)), most)
    return fitting, min(max(1, int(factor * height)), most // fitting)
