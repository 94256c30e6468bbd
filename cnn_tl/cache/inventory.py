"""What the cache holds, entry by entry, and how an entry is removed.

A file's modification time says when it was last used: readers set it, because many file systems do not record access
times.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cnn_tl.cache.location import (
    FEATURES,
    IMAGES,
    NETWORKS,
    SPACE_INFO,
    leftovers_in,
    networks_in,
    shards_in,
    spaces_in,
)

LEFTOVER_SECONDS = 3600.0
"""A temporary file older than this was left by a killed writer; a younger one may still be being written."""


@dataclass(frozen=True)
class Entry:
    """A shard, a remembered network or a leftover temporary file.

    Attributes:
        nbytes: its size. used: when it was last used, in seconds since 1970.
    """

    path: Path
    kind: Literal["shard", "network", "leftover"]
    nbytes: int
    used: float

    @property
    def holds_images(self) -> bool:
        """Whether this is a shard of decoded images, which are quicker to make again than features."""
        return self.kind == "shard" and self.path.parent.parent.name == IMAGES

    @property
    def is_old(self) -> bool:
        """Whether a leftover is no longer being written."""
        return time.time() - self.used > LEFTOVER_SECONDS


def entries(root: Path) -> list[Entry]:
    """Return every entry of the cache, in no order."""
    found = list(_leftovers(root / NETWORKS))
    for folder in networks_in(root):
        with contextlib.suppress(OSError):
            found.append(Entry(folder, "network", _folder_bytes(folder), folder.stat().st_mtime))
    for space in spaces_in(root):
        found += _leftovers(space)
        for shard in shards_in(space):
            with contextlib.suppress(OSError):  # removed meanwhile
                facts = shard.stat(follow_symlinks=False)
                found.append(Entry(Path(shard.path), "shard", facts.st_size, facts.st_mtime))
    return found


def remove(entry: Entry) -> int:
    """Remove an entry; return the bytes freed, 0 if it is gone already or may not be removed."""
    try:
        if entry.path.is_dir():
            shutil.rmtree(entry.path)
        else:
            entry.path.unlink()
    except OSError:
        return 0
    return entry.nbytes


def tidy(root: Path) -> None:
    """Remove folders that have become empty; the root stays, since the user may have created it."""
    for space in spaces_in(root):
        if not shards_in(space) and not leftovers_in(space):
            with contextlib.suppress(OSError):
                (space / SPACE_INFO).unlink(missing_ok=True)
            _remove_if_empty(space)
    for folder in (root / FEATURES, root / IMAGES, root / NETWORKS):
        _remove_if_empty(folder)


def touch(path: Path) -> None:
    """Record that a file was used now, where that is permitted."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _leftovers(folder: Path) -> Iterator[Entry]:
    for path in leftovers_in(folder):
        with contextlib.suppress(OSError):
            facts = path.stat()
            nbytes = _folder_bytes(path) if path.is_dir() else facts.st_size
            yield Entry(path, "leftover", nbytes, facts.st_mtime)


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            facts = path.lstat()
            total += facts.st_size if not path.is_dir() else 0
    return total


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
