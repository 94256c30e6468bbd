"""The cache of features and decoded images: rows found by key, whatever run or folder they came from.

A space holds the rows that were computed in the same way. The name of the space is a digest of that way: weights,
preprocessing, split point, precision, format version. Whatever changes the numbers leads to another space, so no row is
ever out of date. The cache raises no errors: rows that cannot be read are computed again, and rows that cannot be
written are not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from cnn_tl.cache.eviction import Eviction
from cnn_tl.cache.location import FEATURES, IMAGES
from cnn_tl.cache.shard import RowType
from cnn_tl.cache.space import Space

FORMAT_VERSION = 2
"""Increased when the meaning of a row changes: older rows are then never found, and are evicted in the end."""


class FeatureCache:
    """The cache in one folder.

    Args:
        root: the folder; it is created when there is something to write.
        holds: what the rows are; `Eviction` says what difference that makes where space is short.
        budget_bytes: the most that the whole folder may hold, features and images; None: as much as the disk allows.
        read_only: leave no trace, not even modification times.
        warn, note: called with one line about damage, and about rows that cannot be kept.
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
        self._eviction = Eviction(root, budget_bytes, for_images=holds == "image", read_only=read_only)
        self._warn, self._note = warn, note
        self._spaces: dict[str, Space] = {}

    def space(self, facts: Mapping[str, object], *, shape: tuple[int, ...], dtype: str = "float32") -> Space:
        """Open the space of the rows that were computed in one way; the same facts give the same object.

        Args:
            facts: plain JSON data: everything that determines the numbers.
            shape: of a row.
            dtype: numpy's name, or "bfloat16", which is stored as uint16 because numpy has no such type.
        """
        description = {"format_version": FORMAT_VERSION, "dtype": dtype, "shape": list(shape), "facts": dict(facts)}
        canonical = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
        name = hashlib.sha256(canonical.encode()).hexdigest()
        if name in self._spaces:
            self._spaces[name].refresh()
        else:
            row = RowType(tuple(shape), np.dtype("uint16" if dtype == "bfloat16" else dtype))
            folder = self.root / (IMAGES if self._holds == "image" else FEATURES) / name
            self._spaces[name] = Space(
                folder, description, row, self._eviction, holds=self._holds, warn=self._warn, note=self._note
            )
        return self._spaces[name]

    def why_not(self, nbytes: int) -> str | None:
        """Return why this many bytes more would not fit (budget, free disk, not writable), or None if they would."""
        return self._eviction.refusal(nbytes)

    def make_room(self, nbytes: int) -> str | None:
        """Make room for a network that is remembered beside the rows; return the reason if that is impossible."""
        return self._eviction.make_room(nbytes)

    def keep(self, network: Path) -> None:
        """Keep the folder of a remembered network from eviction while this process works with the cache."""
        self._eviction.use(network)
        self._eviction.lock(network)
