"""What the file of an image says about itself: size, format, JPEG quality, camera, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

_ROTATED = range(5, 9)
"""EXIF orientations that swap width and height."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about itself.

    Attributes:
        width, height: in pixels, after EXIF rotation.
        format: Pillow's name, such as "JPEG". mode: Pillow's, such as "RGB".
        quality: of a JPEG, 1 to 100, estimated from its quantisation table; None elsewhere.
        camera: EXIF make and model. taken: EXIF time, "2026:11:28 07:00:00". None where there is none.
    """

    width: int
    height: int
    format: str
    mode: str
    quality: int | None = None
    camera: str | None = None
    taken: str | None = None


UNKNOWN = Header(0, 0, "", "")
"""Of a file that Pillow cannot open as it is, such as one that needs a repair before it is decoded."""


def read_header(path: Path) -> Header:
    """Return the header of an image file; nothing is decoded. `UNKNOWN` if Pillow cannot open it."""
    try:
        with Image.open(path) as image:
            exif = Image.Image.getexif(image)  # that of a PNG decodes it, to look for EXIF data behind the pixels
            size = image.size[::-1] if exif.get(ExifTags.Base.Orientation) in _ROTATED else image.size
            tables = image.quantization if isinstance(image, JpegImagePlugin.JpegImageFile) else {}
            camera = " ".join(_text(exif.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model)).strip()
            taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
            taken = taken or exif.get(ExifTags.Base.DateTime)
            return Header(*size, image.format or "", image.mode, _quality(tables), camera or None, _text(taken) or None)
    except Exception:  # noqa: BLE001 - on garbage, a decoder can raise anything
        return UNKNOWN


def _text(value: object) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value or "")
    return text.replace("\0", "").strip()


def _quality(tables: Mapping[int, Sequence[int]]) -> int | None:
    """Estimate the quality of libjpeg's scale from the luminance table, by its mean."""
    if 0 not in tables:
        return None
    mean = float(np.mean(tables[0]))
    return int(np.argmin(np.abs(_means() - mean))) + 1


@cache
def _means() -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the mean of libjpeg's luminance table at each quality from 1 to 100 (jcparam.c, jpeg_quality_scaling)."""
    quality = np.arange(1, 101)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    table = np.clip((np.array(_LUMINANCE)[None] * scale[:, None] + 50) // 100, 1, 255)
    means: np.ndarray[tuple[int], np.dtype[np.float64]] = table.mean(1)
    return means


_LUMINANCE = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
"""ITU-T T.81, table K.1."""
