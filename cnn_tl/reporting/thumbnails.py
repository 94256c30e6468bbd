"""Thumbnails of many images within a budget of time: what is left out when it has run out is said, not waited for."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import BadImageError, ResourceError
from cnn_tl.core.files import sha256_file
from cnn_tl.core.formatting import counted

SIDE = 128
"""Of a thumbnail, in pixels."""


@dataclass
class Thumbnails:
    """Thumbnails by the index of their image, and why the others have none.

    Attributes:
        drawn: WebP or JPEG files. errors: of images that cannot be decoded.
        missing: images that are no longer where they were. changed: those whose file now has other contents.
        late: those for which no time was left.
    """

    drawn: dict[int, bytes] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)

    def notes(self) -> list[str]:
        """Return a line each on the missing, the changed and the late ones, where there are any."""
        lines = []
        if self.missing:
            where = "not where they were" if len(self.missing) > 1 else "not where it was"
            lines.append(
                f"without thumbnails of {counted(len(self.missing), 'image')} that {_are(self.missing)} {where}"
            )
        if self.changed:
            lines.append(f"without thumbnails of {counted(len(self.changed), 'image')}, changed since the prediction")
        if self.late:
            lines.append(f"without thumbnails of {counted(len(self.late), 'image')}, for which no time was left")
        return lines


def draw(files: Mapping[int, Path], deadline: float = math.inf, sha256: Mapping[int, str] | None = None) -> Thumbnails:
    """Draw thumbnails of image files, in the order of the mapping.

    Args:
        deadline: by `time.monotonic`; none is begun after it.
        sha256: of the files that were predicted, where it is known.
    """
    from cnn_tl.pages.thumbnail import thumbnail_of_file

    found, digests = Thumbnails(), sha256 or {}

    def one(index: int) -> None:
        if time.monotonic() > deadline:
            found.late.append(index)
        elif not files[index].is_file():
            found.missing.append(index)
        else:
            try:
                if digests.get(index) and sha256_file(files[index]) != digests[index]:
                    found.changed.append(index)
                else:
                    found.drawn[index] = thumbnail_of_file(files[index], SIDE)
            except OSError as error:
                found.errors[index] = error.strerror or str(error)
            except (BadImageError, ResourceError) as error:
                found.errors[index] = str(error)

    with ThreadPoolExecutor(max(1, default_workers()), thread_name_prefix="thumbnail") as threads:
        list(threads.map(one, files))
    return found


def _are(images: list[int]) -> str:
    return "are" if len(images) > 1 else "is"
