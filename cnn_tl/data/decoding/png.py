"""What of a PNG decides its pixels; the rest, such as texts and profiles, is left out where Pillow stumbles over it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

_ANCILLARY = 0x20
_KEPT = (b"tRNS", b"eXIf")
"""Ancillary chunks that change what is seen; one with a wrong checksum is ignored, as libpng does."""

_SCALES = {"L": (255, 1), "L;4": (15, 17), "L;2": (3, 85)}
"""How Pillow unpacks grey: the largest value, and the factor to 0..255."""


def second_tries(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Yield the file once more: its critical chunks, transparency and orientation only; then without orientation, or
    transparency, or both.

    Nothing is inflated, and no more is held in memory than the pixels of the header can take.

    Raises:
        ValueError: it holds more than that.
    """
    for kept in (_KEPT, _KEPT[:1], _KEPT[1:], ()):
        yield _reduced(stream, kept)


def _reduced(stream: BinaryIO, kept: tuple[bytes, ...]) -> BinaryIO:
    stream.seek(0)
    reduced = io.BytesIO(stream.read(8))
    reduced.seek(0, os.SEEK_END)
    room = 1 << 20
    while len(head := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        ancillary = bool(name[0] & _ANCILLARY)
        if ancillary and name not in kept:
            stream.seek(length + 4, os.SEEK_CUR)
            continue
        if length > room - reduced.tell():
            raise ValueError("more data than pixels")
        body = stream.read(length + 4)
        if ancillary and zlib.crc32(name + body[:-4]) != int.from_bytes(body[-4:]):
            continue
        reduced.write(head + body)
        if name == b"IHDR" and length >= 8:
            width, height = struct.unpack_from(">II", body)
            room += 9 * width * height  # 16 bits of four channels, and a filter byte a row
        elif name == b"IEND":
            break
    reduced.seek(0)
    return reduced


def load(image: ImageFile, stream: BinaryIO) -> Image.Image | None:
    """Decode an open PNG; where a transparent colour of 16 bits is declared, return where the image is opaque.

    Pillow compares that colour with 8 bits, and that of grey with 2 or 4 bits before it is scaled to 8.

    Args:
        stream: where the image is read from; 16 bits of colour take a second look.

    Returns:
        A mask, mode L, 255 where it is opaque; None where Pillow finds out itself.
    """
    form, transparent = image.tile[0].args, image.info.get("transparency")
    place = image.tile[0]
    image.load()
    if transparent is None:  # one that comes behind the pixels counts for nothing
        image.info.pop("transparency", None)
    else:
        image.info["transparency"] = transparent
    if form in _SCALES and isinstance(transparent, int):
        most, scale = _SCALES[form]
        image.info["transparency"] = scale * (transparent & most)
    elif form == "RGB" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(channel & 0xFF for channel in transparent)
    elif form == "I;16B" and transparent is not None:
        del image.info["transparency"]
        return _mask(np.asarray(image) != transparent)
    elif form == "RGB;16B" and transparent is not None:
        del image.info["transparency"]
        stream.seek(0)
        with type(image)(stream) as lower:
            lower.tile = [place._replace(args="RGB;16L")]  # the other byte of each sample
            lower.load()
            deep = (np.asarray(image, np.uint16) << 8) | np.asarray(lower, np.uint16)
        return _mask((deep != np.array(transparent, np.uint16)).any(axis=-1))
    return None


def _mask(opaque: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))
