"""Whether there is room for more: the budget, the disk, and what may go for it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from cnn_tl.cache.claims import Claim, claim, is_claimed_by_others
from cnn_tl.cache.inventory import Piece, pieces, remove, tidy, touch
from cnn_tl.cache.sizes import readable
from cnn_tl.core.errors import printable

GB = 10**9

KEPT_FREE_BYTES = 1 * GB
KEPT_FREE_SHARE = 0.02
"""The cache leaves a gigabyte of the disk free, or this share of a disk below 50 GB: the run has more to write."""


class Room:
    """The room that a cache has for this process.

    Attributes:
        root: the cache's folder.
        budget_bytes: the most that it may hold; None: as much as the disk allows.
        for_images: whether decoded images want the room. They are large and quickly made, so for them nothing but
            other images goes, and for features images go first.
        read_only: nothing is written, removed or touched.
        in_use: shards and remembered networks that this process has used; they stay.
        claims: keeps them from other processes too, as long as this lives.
        own: folders of the spaces that this process works with; the shards of others go before theirs.
        is_closed: whether something found no room; then nothing more is tried.
    """

    def __init__(
        self, root: Path, budget_bytes: int | None, *, for_images: bool = False, read_only: bool = False
    ) -> None:
        self.root = root
        self.budget_bytes = budget_bytes
        self.for_images = for_images
        self.read_only = read_only
        self.in_use: set[Path] = set()
        self.own: set[Path] = set()
        self.claims: dict[Path, Claim | None] = {}
        self.is_closed = False

    def refusal(self, nbytes: int) -> str | None:
        """Say why `nbytes` more cannot be kept, or None; nothing is removed."""
        victims = self._victims(nbytes)
        return victims if isinstance(victims, str) else None

    def make(self, nbytes: int) -> str | None:
        """Make room for `nbytes` by removing what was not used for the longest time; where that cannot be, say why."""
        if self.read_only:
            return "the cache is only read"
        victims = self._victims(nbytes)
        if isinstance(victims, str):
            return victims
        if victims:
            for piece in victims:
                remove(piece)
            tidy(self.root)
        return None

    def use(self, path: Path) -> None:
        """Note that a shard or a network is used, so that it is the last to go, and not before this process ends."""
        if path not in self.in_use:
            self.in_use.add(path)
            if not self.read_only:
                touch(path)

    def claim(self, folder: Path) -> None:
        """Keep what is in the folder of a space, or of a network, from other processes that need room."""
        self.claims[folder] = claim(folder)

    def _victims(self, nbytes: int) -> list[Piece] | str:
        """Return what must go so that `nbytes` find room, or the reason why all that may go is not enough."""
        try:
            disk = shutil.disk_usage(self._writable())
        except OSError as error:
            return f"{printable(self.root)} cannot be written ({error.strerror or error})"
        held = pieces(self.root)
        kept_free = min(KEPT_FREE_BYTES, int(KEPT_FREE_SHARE * disk.total))
        over_budget = 0 if self.budget_bytes is None else sum(p.nbytes for p in held) + nbytes - self.budget_bytes
        lacking = max(over_budget, kept_free + nbytes - disk.free)
        victims: list[Piece] = []
        claimed = cache(is_claimed_by_others)
        for piece in self._in_order(held):
            if lacking <= 0:
                break
            if piece.kind != "leftover" and claimed(_folder_of(piece)):
                continue
            victims.append(piece)
            lacking -= piece.nbytes
        if lacking <= 0:
            return victims
        if self.budget_bytes is not None and over_budget >= kept_free + nbytes - disk.free:
            return f"{readable(nbytes)} more would go beyond the cache's budget of {readable(self.budget_bytes)}"
        return (
            f"{readable(nbytes)} more would leave less than {readable(kept_free)} of the disk of "
            f"{printable(self.root)} free"
        )

    def _writable(self) -> Path:
        """Return the folder in which the cache would be written.

        Raises:
            OSError: it cannot be.
        """
        if not self.read_only:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                return self.root
        folder = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return folder

    def _in_order(self, held: list[Piece]) -> list[Piece]:
        """Return what may go, in the order in which it goes: leftovers, others' spaces and networks, then our own.

        Among the others those of images go first.
        """
        leftovers = [piece for piece in held if piece.kind == "leftover" and piece.is_old]
        unused = [piece for piece in held if piece.kind != "leftover" and piece.path not in self.in_use]
        if self.for_images:
            unused = [piece for piece in unused if piece.holds_images]

        def order(piece: Piece) -> tuple[bool, bool, float]:
            return piece.path.parent in self.own, not piece.holds_images, piece.used

        return leftovers + sorted(unused, key=order)


def _folder_of(piece: Piece) -> Path:
    """Return what a process claims that works with a piece."""
    return piece.path if piece.kind == "network" else piece.path.parent
