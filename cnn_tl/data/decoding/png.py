"""PNGs that Pillow refuses because of data other than pixels, such as texts and profiles; and 16-bit transparency."""

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
"""Ancillary chunks that affect the image; one with a wrong checksum is ignored, as in libpng."""

_SCALES = {"L": (255, 1), "L;4": (15, 17), "L;2": (3, 85)}
"""Pillow's raw modes of grey -> the largest value, and the factor to 0..255."""


def second_tries(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Yield other forms of the file: only critical chunks, transparency and orientation; then without orientation,
    without transparency, without both.

    Nothing is decompressed, and at most as many bytes are kept in memory as the pixels of the header can take.

    Raises:
        ValueError: there are more bytes than that.
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
            room += 9 * width * height  # 16 bits of four channels, and a filter byte per row
        elif name == b"IEND":
            break
    reduced.seek(0)
    return reduced


def load(image: ImageFile, stream: BinaryIO) -> Image.Image | None:
    """Decode an open PNG; if it declares a transparent colour of 16 bits, return where the image is opaque.

    Pillow would compare that colour with 8-bit pixels, and a grey of 2 or 4 bits before it is scaled to 8.

    Args:
        stream: the image's file; 16-bit colour is decoded twice.

    Returns:
        A mask, mode L, 255 where the image is opaque; None if Pillow handles the transparency.
    """
    form, transparent = image.tile[0].args, image.info.get("transparency")
    tile = image.tile[0]
    image.load()
    if transparent is None:  # one that comes after the pixels does not count
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
            lower.tile = [tile._replace(args="RGB;16L")]  # the other byte of each sample
            lower.load()
            deep = (np.asarray(image, np.uint16) << 8) | np.asarray(lower, np.uint16)
        return _mask((deep != np.array(transparent, np.uint16)).any(axis=-1))
    return None


def _mask(opaque: NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(opaque.astype(np.uint8) * np.uint8(255))
