"""TIFF as the file declares it: which value is white, how many bits count, and types of pixels that Pillow lacks.

Pillow parses the tags and libtiff decodes. Pixels of a type that Pillow lacks are decoded through a mode of the same
width, and then reinterpreted as their real type.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.ImageFile import _Tile
from PIL.TiffImagePlugin import COMPRESSION_INFO, MAX_SAMPLESPERPIXEL, TiffImageFile

from cnn_tl.data.decoding.bit_depth import to_8_bits
from cnn_tl.data.decoding.file_types import UnsupportedError

_SUBFILE, _WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_SAMPLES, _LARGEST, _SUB_IFDS, _EXTRA, _FORMAT, _DECLARED_LARGEST = 277, 281, 330, 338, 339, 341
_PLANES, _NO_DATA, _DNG_VERSION = 284, 42113, 50706

_SAME_WIDTH = {  # bits of a pixel -> Pillow's mode and raw modes; two: the first and the second byte of each 16 bits
    8: ("L", "L"),
    12: ("I;16", "I;12"),
    16: ("I;16", "I;16N"),
    32: ("I", "I;32N"),
    48: ("RGB", "RGB;16B", "RGB;16L"),
    64: ("RGBA", "RGBA;16B", "RGBA;16L"),
}
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_COMPLEX = (5, 6)
_KIND_NAMES = {"u": "unsigned", "i": "signed", "f": "floating-point"}
_COLOURS = {3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}


@dataclass(frozen=True)
class Pixels:
    """The type of the pixels by the tags: `kind` is numpy's, `bits` are those of a sample, `used` those that count."""

    photometric: int
    kind: str
    bits: int
    samples: int
    extra: tuple[int, ...]
    used: int | None
    no_data: float | None

    def __str__(self) -> str:
        many = f"{self.samples} x " if self.samples > 1 else ""
        colours = _COLOURS.get(self.photometric, "")
        return f"{colours} of {many}{self.bits}-bit {_KIND_NAMES[self.kind]} samples".strip()


class TiffReader(TiffImageFile):
    """Pillow's reader, extended by grey pixels of all usual depths and by all bits of 16-bit RGB.

    Attributes:
        pixels: the type of the first image's pixels.
        raw_modes: Pillow's raw modes through which they are decoded; empty if Pillow has a mode for them.
    """

    pixels: Pixels
    raw_modes: tuple[str, ...] = ()

    def _setup(self) -> None:
        tags = self.tag_v2
        if _DNG_VERSION in tags or (tags.get(_SUBFILE, 0) & 1 and _SUB_IFDS in tags):
            raise UnsupportedError("a raw photograph")  # the first image is its thumbnail
        self.pixels = _described(tags)
        if self.pixels.samples > MAX_SAMPLESPERPIXEL:
            raise UnsupportedError(f"TIFF {self.pixels}")
        try:
            super()._setup()
        except (SyntaxError, KeyError) as error:
            if tags.get(_COMPRESSION, 1) not in COMPRESSION_INFO:
                raise UnsupportedError(f"TIFF with compression {tags[_COMPRESSION]}") from error
            if _WIDTH not in tags or _LENGTH not in tags or not self._decode_by_width():
                raise UnsupportedError(f"TIFF {self.pixels}") from error
        else:
            self._correct()

    def _correct(self) -> None:
        """Decode in another way where Pillow would lose bits, or confuse their order."""
        described, mode = self.pixels, self.mode
        if mode == "RGB" and described.used is not None:
            self._decode_by_width()
        elif self.use_load_libtiff and (mode.startswith("F") or mode == "I"):
            self._decode_by_width()  # libtiff has swapped the bytes already
        elif described.bits == 16 and self._planar_configuration == 2 and not self.use_load_libtiff:
            self._decode_with_libtiff(f"{mode};16N")

    def _decode_by_width(self) -> bool:
        """Have libtiff decode the pixels through a mode of the same width; return whether there is one."""
        described = self.pixels
        colours = {0: 1, 1: 1, 2: 3}.get(described.photometric)
        mode, *raw_modes = _SAME_WIDTH.get(described.bits * described.samples, ("",))
        together = described.samples == 1 or self.tag_v2.get(_PLANES, 1) == 1
        if colours != described.samples - len(described.extra) or not raw_modes or not together:
            return False
        if (described.kind == "f" and described.bits < 16) or self._compression in ("jpeg", "tiff_jpeg"):
            return False
        self._mode, self.raw_modes = mode, tuple(raw_modes)
        self._decode_with_libtiff(raw_modes[0])
        return True

    def _decode_with_libtiff(self, raw_mode: str) -> None:
        self.use_load_libtiff = True
        self.tile = [_Tile("libtiff", (0, 0, *self._tile_size), 0, (raw_mode, False, self.tag_v2.offset))]

    def load_end(self) -> None:
        """Rotate the image upright, even if its metadata is damaged."""
        try:
            super().load_end()
        except Exception:  # noqa: BLE001 - damaged metadata can raise anything
            with suppress(Exception):
                ImageOps.exif_transpose(self, in_place=True)

    @property
    def is_deep(self) -> bool:
        """Whether `deep_to_8_bits` has to convert it."""
        return bool(self.raw_modes) or self.mode.startswith(("I", "F")) or self.pixels.kind != "u"


def deep_to_8_bits(image: TiffReader, stream: BinaryIO) -> Image.Image:
    """Convert a loaded image with deep pixels to 8 bits of grey or colour, with alpha if it has any.

    Args:
        stream: the image's file; some types of pixels are decoded twice.
    """
    described = image.pixels
    planes = _values(image, stream)
    options: dict[str, Any] = {"bits": described.used, "no_data": described.no_data}
    if planes.ndim == 2:
        return Image.fromarray(to_8_bits(planes, white_is_zero=described.photometric == 0, **options))
    colours = described.samples - len(described.extra)
    seen = to_8_bits(planes[..., :colours], white_is_zero=described.photometric == 0, **options)
    if described.extra[:1] not in ((1,), (2,)):
        return Image.fromarray(seen if colours > 1 else seen[..., 0])
    alpha = to_8_bits(planes[..., colours], **options)[..., None]
    if described.extra[0] == 1:  # the colours are premultiplied: only the white background is missing
        seen, alpha = np.minimum(seen, alpha) + (255 - alpha), np.full_like(alpha, 255)
    return Image.fromarray(np.concatenate([seen, alpha], axis=-1))


def _values(image: TiffReader, stream: BinaryIO) -> NDArray[Any]:
    """Return the pixels in their declared type, [H, W] or [H, W, samples]."""
    described = image.pixels
    dtype = np.dtype(f"{described.kind}{max(1, 2 ** math.ceil(math.log2(described.bits / 8)))}")
    values = np.asarray(image)
    if not image.raw_modes:
        return values.astype(dtype)  # integers wrap to their original values
    if len(image.raw_modes) == 2:
        stream.seek(0)
        with TiffReader(stream) as again:
            codec, extents, offset, args = again.tile[0]
            assert isinstance(args, tuple)
            again.tile = [_Tile(codec, extents, offset, (image.raw_modes[1], *args[1:]))]
            again.load()
            values = np.stack([values, np.asarray(again)], axis=-1)
    height, width = values.shape[:2]
    planes = np.ascontiguousarray(values).reshape(height, -1).view(dtype).reshape(height, width, -1)
    return planes if described.samples > 1 else planes[..., 0]


def _described(tags: Any) -> Pixels:
    bits = _numbers(tags.get(_BITS, 1))
    kinds = _numbers(tags.get(_FORMAT, 1))
    samples = int(tags.get(_SAMPLES, 1))
    photometric = int(tags.get(_PHOTOMETRIC, 0))
    if int(kinds[0]) in _COMPLEX:
        raise UnsupportedError("TIFF of complex numbers")
    kind = _KINDS.get(int(kinds[0]), "u")
    if len(set(bits)) > 1 or len(set(kinds)) > 1:
        raise UnsupportedError("TIFF with unlike samples")
    extra = tuple(int(number) for number in _numbers(tags.get(_EXTRA, ())))
    return Pixels(photometric, kind, int(bits[0]), samples, extra, _used(tags, int(bits[0])), _no_data(tags))


def _used(tags: Any, bits: int) -> int | None:
    """Return how many bits count, for unusual depths or if the largest value is declared to be 2^n - 1; else None.

    Any other largest value is that of the image, and says nothing about white.
    """
    if bits not in (8, 16, 32, 64):
        return bits
    for tag in (_DECLARED_LARGEST, _LARGEST):
        values = _numbers(tags.get(tag, ()))
        largest = max(values, default=0) if len(values) == tags.get(_SAMPLES, 1) else 0  # libtiff accepts no other
        if 255 <= largest < 2**bits - 1 and largest == int(largest) and int(largest) & (int(largest) + 1) == 0:
            return int(largest).bit_length()
    return None


def _no_data(tags: Any) -> float | None:
    """Return the value of unmeasured pixels, as GDAL declares it."""
    with suppress(ValueError, TypeError):
        return float(str(tags[_NO_DATA]).strip("\0 ")) if _NO_DATA in tags else None
    return None


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
