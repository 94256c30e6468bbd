"""JPEGs that Pillow refuses: complete ones without an end marker, odd metadata, unsupported variants.

Only the headers of segments are parsed here; libjpeg decodes.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA
_BARE = {0x01, *range(0xD0, 0xDA)}
"""Markers without a length: restarts, start, end."""

_FRAMES = {
    0xC3: "lossless JPEG",
    0xC5: "hierarchical JPEG",
    0xC6: "hierarchical JPEG",
    0xC7: "lossless JPEG",
    0xC9: "arithmetic-coded JPEG",
    0xCA: "arithmetic-coded JPEG",
    0xCB: "lossless JPEG",
    0xCD: "hierarchical JPEG",
    0xCE: "hierarchical JPEG",
    0xCF: "lossless JPEG",
    0xF7: "JPEG-LS",
}
_DECODED_FRAMES = (0xC0, 0xC1, 0xC2)

_EXIF = 0xE1
_METADATA = {*range(0xE0, 0xF0), 0xFE}
"""Application segments and comments."""

_LEAST = {0xE0: 14, 0xEE: 12}
"""Marker -> minimum length: libjpeg derives the colour space from JFIF's and Adobe's segments of this length."""

_OWN = 48
"""Bytes at the end of the data that are tried as a continuation."""

_SURPLUS = 4
"""The last bytes of an image; even so few of them decide some of its last pixels."""

_STRIP = 64
"""Rows of pixels that are hashed together."""

_SLACK = 1 << 26
"""Bytes that a file may have beyond four per pixel; of larger ones no second forms are tried."""


def unsupported(stream: BinaryIO) -> str | None:
    """Return the variant of this JPEG, if it is an unsupported one; else None."""
    stream.seek(0)
    for marker, body, _ in _segments(stream.read(1 << 20)):
        if marker in _FRAMES:
            return _FRAMES[marker]
        if marker in _DECODED_FRAMES:
            return f"{body[0]}-bit JPEG" if body and body[0] != 8 else None
    return None


def second_tries(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Yield other forms of the file: with the missing end marker, without most metadata, without any metadata."""
    stream.seek(0)
    data = stream.read(_SLACK)
    size = next((body for marker, body, _ in _segments(data) if marker in _DECODED_FRAMES), b"")[1:5]
    data += stream.read(4 * int.from_bytes(size[:2]) * int.from_bytes(size[2:]))
    if stream.read(1):
        return
    if _is_opened(data):
        yield from map(io.BytesIO, _completed(data))
        return
    for left_out in (_METADATA - {_EXIF}, _METADATA):
        reduced = _without(data, left_out)
        yield io.BytesIO(reduced)
        yield from map(io.BytesIO, _completed(reduced))


def _is_opened(data: bytes) -> bool:
    """Return whether Pillow accepts everything before the first scan."""
    with suppress(Exception), JpegImageFile(io.BytesIO(data)):
        return True
    return False


def _completed(data: bytes) -> Iterator[bytes]:
    """Yield the data with an end marker, if only that is missing.

    If the data is complete, the pixels do not depend on what follows it. If they do not depend on the last bytes
    either, those bytes do not belong to the image: it is truncated, and something else follows.
    """
    exact = data.rstrip(b"\xff")
    if _has_every_scan(exact) and _decides_all_pixels(exact) and not _decides_all_pixels(exact[:-_SURPLUS]):
        yield exact + _END


def _decides_all_pixels(data: bytes) -> bool:
    """Return whether the pixels are the same whatever follows the data: a decoder that lacks bits would read on."""
    seen = set()
    for filler in _fillers(data):
        try:
            with JpegImageFile(io.BytesIO(data + filler + _END)) as image:
                image.load()
                seen.add(_digest(image))
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - on garbage, a decoder can raise anything
            return False
        if len(seen) > 1:
            return False
    return True


def _digest(image: Image.Image) -> bytes:
    """Return a checksum of the pixels, without copying all of them."""
    digest = hashlib.sha256()
    for top in range(0, image.height, _STRIP):
        digest.update(image.crop((0, top, image.width, min(top + _STRIP, image.height))).tobytes())
    return digest.digest()


def _fillers(data: bytes) -> Iterator[bytes]:
    """Yield possible continuations of the data: nothing, and bits that decode to something.

    Huffman tables may have few codes, so some of the fillers are bits of this file. Restart markers are cycled through.
    """
    own = int.from_bytes(data[-_OWN:])
    bits = [own >> 1, own >> 3, own << 2, own << 5, *(int(word * _OWN, 16) for word in ("aa", "5390", "08", "6db"))]
    restart = ord((re.findall(rb"\xff([\xd0-\xd7])", data) or [b"\xd7"])[-1])
    yield b""
    for number in bits:
        filler = number.to_bytes(2 * _OWN + 1).lstrip(b"\0").replace(b"\xff", b"\xfe")
        yield filler + b"".join(bytes([0xFF, 0xD0 + (restart + turn) % 8]) + filler for turn in range(1, 9))


def _has_every_scan(data: bytes) -> bool:
    """Return whether the scans in the data define every coefficient of every component down to its last bit."""
    frame = next((body for marker, body, _ in _segments(data) if marker in _DECODED_FRAMES), b"")
    missing = {(component, index) for component in frame[6::3] for index in range(64)}
    for marker, body, _ in _segments(data, behind_scans=True):
        if marker == _SCAN and body and len(body) >= 4 + 2 * body[0]:
            first, last, bits = body[1 + 2 * body[0] :][:3]
            if not bits & 15:
                missing -= {(c, index) for c in body[1 : 1 + 2 * body[0] : 2] for index in range(first, last + 1)}
    return bool(frame) and not missing


def _without(data: bytes, left_out: set[int]) -> bytes:
    """Return the data without segments with the markers `left_out` before the first scan."""
    kept, end = [_START], 2
    for marker, body, at in _segments(data):
        end = at + 4 + len(body)
        if marker not in left_out or len(body) >= _LEAST.get(marker, 1 << 16):
            kept.append(data[at:end])
    return b"".join(kept) + data[end:]


def _segments(data: bytes, *, behind_scans: bool = False) -> Iterator[tuple[int, bytes, int]]:
    """Yield the marker, body and position of each segment, up to the first scan or to the end."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 3:
        marker = data[at + 1]
        if marker in (0, 0xFF) or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        length = max(2, int.from_bytes(data[at + 2 : at + 4]))
        yield marker, data[at + 4 : at + 2 + length], at
        if marker == _SCAN and not behind_scans:
            return
        at += 2 + length
