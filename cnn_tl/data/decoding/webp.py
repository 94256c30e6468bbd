"""WebP files with truncated or inconsistent metadata: the pixels come first, and are complete."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

_METADATA = (b"EXIF", b"XMP ", b"ICCP")


def second_tries(stream: BinaryIO) -> Iterator[BinaryIO]:
    """Yield other forms of the file, with its real length: without truncated metadata, without any metadata."""
    for left_out in ((), _METADATA):
        stream.seek(12)
        kept = bytearray()
        while len(head := stream.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            length += length % 2
            body = stream.read(length)
            if len(body) < length and head[:4] in _METADATA:
                break
            if head[:4] not in left_out:
                kept += head + body
        yield io.BytesIO(b"RIFF" + (4 + len(kept)).to_bytes(4, "little") + b"WEBP" + kept)
