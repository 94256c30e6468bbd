"""Collects rows and writes them as shards."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from cnn_tl.cache.shard import KEY_BYTES, Rows, RowType, ShardIndex, as_array, row_digests

SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 4096
SHARD_SECONDS = 30.0
"""A shard is written when it has this many bytes (at least one row), this many rows, or when its first row is this
old. A kill costs at most this much work."""


class Writer:
    """Collects rows of one space and writes them as shards; made by `Space.writer`.

    Args:
        row: the type of a row.
        known: whether the space has the row of a key.
        write: writes a shard and takes over its arrays; returns False if no more rows are kept from now on.
        is_open: False if that is known from the start.
    """

    def __init__(
        self, row: RowType, *, known: Callable[[bytes], bool], write: Callable[[ShardIndex, Rows], bool], is_open: bool
    ) -> None:
        self._row, self._known, self._write = row, known, write
        self._open = is_open
        self._held: dict[bytes, int] = {}
        self._rows: Rows
        self._began = 0.0

    def add(self, key: bytes, row: Rows) -> bool:
        """Add a copy of a row [*shape] under a key of 32 bytes.

        Returns:
            Whether `Space.gather` returns this row once the writer is done. False: there is no room for it.
        """
        if key in self._held or self._known(key):
            return True
        if not self._open:
            return False
        assert len(key) == KEY_BYTES
        assert row.shape == self._row.shape
        assert row.dtype == self._row.dtype
        if not self._held:
            self._rows = np.empty((self._capacity, *self._row.shape), self._row.dtype)  # pages are allocated on use
            self._began = time.monotonic()
        position = len(self._held)
        self._rows[position] = row
        self._held[key] = position
        if len(self._held) == self._capacity or time.monotonic() - self._began > SHARD_SECONDS:
            self.flush()
        return True

    def flush(self) -> None:
        """Write the collected rows."""
        if not self._held:
            return
        keys, rows = list(self._held), self._rows[: len(self._held)]
        self._open = self._write(ShardIndex(as_array(keys), row_digests(keys, rows)), rows)
        del self._rows  # only now: if the write was interrupted, the next flush repeats it
        self._held = {}

    @property
    def _capacity(self) -> int:
        return max(1, min(SHARD_ROWS, SHARD_BYTES // self._row.nbytes))
