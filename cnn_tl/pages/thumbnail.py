"""Thumbnails for pages: small WebP files, or JPEG where Pillow was built without WebP."""

from __future__ import annotations

import functools
import io
from pathlib import Path

from PIL import Image, features

from cnn_tl.data.decoding.image import ImageLimits, read_image

SIDE = 128
"""The longer side in pixels."""

QUALITY = 70
"""About 3 kB for a photograph of 128 pixels."""

_LOSSLESS_SIDE = 32
_LIMITS = ImageLimits(min_side=1)


def thumbnail(image: Image.Image, side: int = SIDE, quality: int = QUALITY) -> bytes:
    """Return an image reduced to `side` pixels on its longer side, as a WebP or JPEG file; small ones keep their size.

    Images of at most 32 pixels, such as digits, are kept without loss: they are enlarged on the page.
    """
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    if not _has_webp():
        small.save(out, "JPEG", quality=quality, optimize=True)
    elif max(small.size) <= _LOSSLESS_SIDE:
        small.save(out, "WEBP", lossless=True)
    else:
        small.save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()


def thumbnail_of_file(path: Path, side: int = SIDE) -> bytes:
    """Return the thumbnail of an image file, upright; a JPEG is decoded at a fraction of its size.

    Raises:
        BadImageError: the image cannot be decoded.
        ResourceError: the machine could not read it, even after several attempts.
    """
    return thumbnail(read_image(path, _LIMITS, draft=(2 * side, 2 * side)), side)


@functools.cache
def _has_webp() -> bool:
    return bool(features.check("webp"))
