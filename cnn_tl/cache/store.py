"""The cache of features, and of decoded images: rows found by key, whatever run or folder they came from.

A space holds the rows that were computed in the same way; what that way is (weights, preprocessing, boundary, number
format, our format version) gives the space its name. So whatever changes the numbers leads to another space, and
nothing is ever out of date. Nothing in here is worth an error: what cannot be read is computed again, and what cannot
be written is not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from cnn_tl.cache.eviction import Room
from cnn_tl.cache.location import FEATURES, IMAGES
from cnn_tl.cache.shard import RowType
from cnn_tl.cache.space import Space

FORMAT_VERSION = 2
"""Raised when the meaning of a row changes; older rows are then never found, and go as the least recently used."""


class FeatureCache:
    """The cache in one folder.

    Args:
        root: the folder; it need not exist, and is made when there is something to write.
        holds: what the rows are; see `Room` for what that means where room is short.
        budget_bytes: the most that all of it, whatever the rows are, may hold; None means as much as the disk allows.
        read_only: leave no trace, not even of having been read.
        warn, note: are told, in a line, of damage, and of rows that cannot be kept.
    """

    def __init__(
        self,
        root: Path,
        *,
        holds: Literal["feature", "image"] = "feature",
        budget_bytes: int | None = None,
        read_only: bool = False,
        warn: Callable[[str], None] = lambda text: None,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.root = root
        self._holds = holds
        self._room = Room(root, budget_bytes, for_images=holds == "image", read_only=read_only)
        self._warn, self._note = warn, note
        self._spaces: dict[str, Space] = {}

    def space(self, facts: Mapping[str, object], *, shape: tuple[int, ...], dtype: str = "float32") -> Space:
        """Open the space of the rows that were computed in one way; asked again, it is the same object.

        Args:
            facts: plain data for JSON: everything that decides the numbers.
            shape: of a row.
            dtype: a name of numpy's, or "bfloat16", which is kept as uint16 since numpy has none.
        """
        card = {"format_version": FORMAT_VERSION, "dtype": dtype, "shape": list(shape), "facts": dict(facts)}
        canonical = json.dumps(card, sort_keys=True, separators=(",", ":"), allow_nan=False)
        name = hashlib.sha256(canonical.encode()).hexdigest()
        if name in self._spaces:
            self._spaces[name].refresh()
        else:
            row = RowType(tuple(shape), np.dtype("uint16" if dtype == "bfloat16" else dtype))
            folder = self.root / (IMAGES if self._holds == "image" else FEATURES) / name
            self._spaces[name] = Space(
                folder, card, row, self._room, holds=self._holds, warn=self._warn, note=self._note
            )
        return self._spaces[name]

    def why_not(self, nbytes: int) -> str | None:
        """Say why so many bytes more would not be kept (budget, free disk, not writable), or None if they would."""
        return self._room.refusal(nbytes)

    def make_room(self, nbytes: int) -> str | None:
        """Make room for a network that is to be remembered beside the rows; where that cannot be, say why."""
        return self._room.make(nbytes)

    def keep(self, network: Path) -> None:
        """Keep the folder of a remembered network while this process works with the cache."""
        self._room.use(network)
        self._room.claim(network)
