"""What the cache holds, piece by piece, and how a piece goes away.

The time at which a file was last used is its time of modification: readers set it, since many file systems do not keep
times of access.
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

from cnn_tl.cache.location import CARD, FEATURES, IMAGES, NETWORKS, leftovers_in, networks_in, shards_in, spaces_in

LEFTOVER_SECONDS = 3600.0
"""Age from which a temporary file is taken for a killed writer's; a younger one may be in the making."""


@dataclass(frozen=True)
class Piece:
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
        """Say whether this is a shard of decoded images, which cost less to make again than features do."""
        return self.kind == "shard" and self.path.parent.parent.name == IMAGES

    @property
    def is_old(self) -> bool:
        """Say whether a leftover is no longer being written."""
        return time.time() - self.used > LEFTOVER_SECONDS


def pieces(root: Path) -> list[Piece]:
    """Return everything in the cache that is ours, in no order."""
    found = list(_leftovers(root / NETWORKS))
    for folder in networks_in(root):
        with contextlib.suppress(OSError):
            found.append(Piece(folder, "network", _folder_bytes(folder), folder.stat().st_mtime))
    for space in spaces_in(root):
        found += _leftovers(space)
        for entry in shards_in(space):
            with contextlib.suppress(OSError):  # gone meanwhile
                facts = entry.stat(follow_symlinks=False)
                found.append(Piece(Path(entry.path), "shard", facts.st_size, facts.st_mtime))
    return found


def remove(piece: Piece) -> int:
    """Remove a piece; return the bytes that this freed, 0 where it is gone already or may not be removed."""
    try:
        if piece.path.is_dir():
            shutil.rmtree(piece.path)
        else:
            piece.path.unlink()
    except OSError:
        return 0
    return piece.nbytes


def tidy(root: Path) -> None:
    """Remove the folders that hold nothing any more; the root stays, somebody may have made it for us."""
    for space in spaces_in(root):
        if not shards_in(space) and not leftovers_in(space):
            with contextlib.suppress(OSError):
                (space / CARD).unlink(missing_ok=True)
            _remove_if_empty(space)
    for folder in (root / FEATURES, root / IMAGES, root / NETWORKS):
        _remove_if_empty(folder)


def touch(path: Path) -> None:
    """Note that a file was used now, where that is allowed."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _leftovers(folder: Path) -> Iterator[Piece]:
    for path in leftovers_in(folder):
        with contextlib.suppress(OSError):
            facts = path.stat()
            nbytes = _folder_bytes(path) if path.is_dir() else facts.st_size
            yield Piece(path, "leftover", nbytes, facts.st_mtime)


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
