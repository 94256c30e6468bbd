"""Finds images that were decoded but show nothing: of one colour, transparent, or almost without contrast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.errors import CnnTlError
from cnn_tl.data.decoding.image import is_transparent

_NARROW = 16
"""An image whose values of 0..255 all lie within this range shows almost nothing."""

_STEP = 16
"""Distance of the rows, and columns, that are checked first: most images already show more there."""

WARNINGS = {
    "transparent": "images that are completely transparent, and so white",
    "constant": "images of one colour all over",
    "narrow": "images whose values lie within 1/16 of the range, so that they show almost nothing",
}
"""Kind of blank image -> its warning."""


def kind_of_pixels(pixels: NDArray[np.uint8], file: Path | None) -> str | None:
    """Return the kind of blank image that these pixels are, a key of `WARNINGS`; None: they show something.

    Args:
        pixels: decoded or resized, [H, W, C].
        file: read again if all pixels are white, to see whether they are transparent; None: there is none.
    """
    if _range(pixels[::_STEP, ::_STEP]) > _NARROW:
        return None
    width = _range(pixels)
    if width > _NARROW:
        return None
    if width == 0 and pixels.size and pixels.flat[0] == 255 and file is not None and _is_transparent(file):
        return "transparent"
    return "narrow" if width else "constant"


def kind_of_image(image: Image.Image, file: Path) -> str | None:
    """Return the same for a decoded image; all of it is checked only if a few of its pixels show nothing."""
    if _range(np.asarray(image.resize((_STEP, _STEP), Image.Resampling.NEAREST))) > _NARROW:
        return None
    return kind_of_pixels(np.asarray(image), file)


def _range(pixels: NDArray[np.uint8]) -> int:
    return int(pixels.max()) - int(pixels.min()) if pixels.size else 0


def _is_transparent(file: Path) -> bool:
    try:
        return is_transparent(file)
    except CnnTlError:  # it was readable a moment ago
        return False
