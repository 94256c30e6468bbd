"""Collecting rows until they are worth a shard."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from cnn_tl.cache.index import KEY_BYTES, as_array
from cnn_tl.cache.shard import DIGEST_BYTES, Index, Rows, RowType, row_bytes, row_digest

SHARD_BYTES = 64 * 2**20
SHARD_ROWS = 4096
SHARD_SECONDS = 30.0
"""A shard is written when it has so many bytes (or one row), so many rows, or when its first row is so old: this much
work a kill can cost."""


class Writer:
    """Takes rows of one space and writes them as shards; made by `Space.writer`.

    Args:
        row: the type of a row.
        known: says whether the space has a row.
        write: writes a shard; returns False where rows are no longer kept. It owns the arrays from then on.
        is_open: False where that is known from the start.
    """

    def __init__(
        self, row: RowType, *, known: Callable[[bytes], bool], write: Callable[[Index, Rows], bool], is_open: bool
    ) -> None:
        self._row, self._known, self._write = row, known, write
        self._open = is_open
        self._held: dict[bytes, int] = {}
        self._digests: list[bytes] = []
        self._rows: Rows
        self._began = 0.0

    def add(self, key: bytes, row: Rows) -> bool:
        """Take a row [*shape] under a key of 32 bytes; the row is copied.

        Returns:
            Whether `Space.gather` gives this row once the writer has ended. False: there is no room, keep it yourself.
        """
        if key in self._held or self._known(key):
            return True
        if not self._open:
            return False
        assert len(key) == KEY_BYTES
        assert row.shape == self._row.shape
        assert row.dtype == self._row.dtype
        if not self._held:
            self._rows = np.empty((self._capacity, *self._row.shape), self._row.dtype)  # memory is taken as it fills
            self._began = time.monotonic()
        place = len(self._held)
        self._rows[place] = row
        self._digests.append(row_digest(key, row_bytes(self._rows[place : place + 1])[0].data))
        self._held[key] = place
        if len(self._held) == self._capacity or time.monotonic() - self._began > SHARD_SECONDS:
            self.flush()
        return True

    def flush(self) -> None:
        """Write what is held."""
        count = len(self._held)
        if not count:
            return
        digests = np.frombuffer(b"".join(self._digests), np.uint8).reshape(count, DIGEST_BYTES)
        self._open = self._write(Index(as_array(list(self._held)), digests), self._rows[:count])
        del self._rows  # only now: what an interrupt of the write leaves unwritten, the next flush writes
        self._held, self._digests = {}, []

    @property
    def _capacity(self) -> int:
        return max(1, min(SHARD_ROWS, SHARD_BYTES // self._row.nbytes))
