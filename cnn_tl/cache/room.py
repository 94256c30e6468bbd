"""Whether there is room for more: the budget, the disk, and what may go for it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from cnn_tl.cache.inventory import Piece, pieces, remove, tidy
from cnn_tl.cache.sizes import readable
from cnn_tl.errors import printable

GB = 10**9

KEPT_FREE_BYTES = 1 * GB
KEPT_FREE_SHARE = 0.02
"""The cache leaves a gigabyte of the disk free, or this share of a disk below 50 GB: the run has more to write."""


class Room:
    """The room that a cache has for this process.

    Attributes:
        root: the cache's folder.
        budget_bytes: the most that it may hold; None: as much as the disk allows.
        for_pictures: whether decoded pictures want the room. They are large and quickly made, so for them nothing but
            other pictures goes, and for features pictures go first.
        in_use: shards that this process has used; they stay.
        own: folders of the spaces that this process works with; the shards of others go before theirs.
        is_closed: whether something found no room; then nothing more is tried.
    """

    def __init__(self, root: Path, budget_bytes: int | None, *, for_pictures: bool = False) -> None:
        self.root = root
        self.budget_bytes = budget_bytes
        self.for_pictures = for_pictures
        self.in_use: set[Path] = set()
        self.own: set[Path] = set()
        self.is_closed = False

    def refusal(self, nbytes: int) -> str | None:
        """Say why `nbytes` more cannot be kept, or None; nothing is removed."""
        victims = self._victims(nbytes)
        return victims if isinstance(victims, str) else None

    def make(self, nbytes: int) -> str | None:
        """Make room for `nbytes` by removing what was not used for the longest time; where that cannot be, say why."""
        victims = self._victims(nbytes)
        if isinstance(victims, str):
            return victims
        if victims:
            for piece in victims:
                remove(piece)
            tidy(self.root)
        return None

    def _victims(self, nbytes: int) -> list[Piece] | str:
        """Return what must go so that `nbytes` find room, or the reason why all that may go is not enough."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                disk = shutil.disk_usage(self.root)
        except OSError as error:
            return f"{printable(self.root)} cannot be written ({error.strerror or error})"
        held = pieces(self.root)
        kept_free = min(KEPT_FREE_BYTES, int(KEPT_FREE_SHARE * disk.total))
        over_budget = 0 if self.budget_bytes is None else sum(p.nbytes for p in held) + nbytes - self.budget_bytes
        lacking = max(over_budget, kept_free + nbytes - disk.free)
        victims: list[Piece] = []
        for piece in self._in_order(held):
            if lacking <= 0:
                break
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

    def _in_order(self, held: list[Piece]) -> list[Piece]:
        """Return what may go, in the order in which it goes: leftovers, other spaces, then the rest of our own.

        Among the other spaces those of pictures go first.
        """
        leftovers = [piece for piece in held if piece.kind == "leftover" and piece.is_old]
        shards = [piece for piece in held if piece.kind == "shard" and piece.path not in self.in_use]
        if self.for_pictures:
            shards = [piece for piece in shards if piece.holds_pictures]

        def order(piece: Piece) -> tuple[bool, bool, float]:
            return piece.path.parent in self.own, not piece.holds_pictures, piece.used

        return leftovers + sorted(shards, key=order)
