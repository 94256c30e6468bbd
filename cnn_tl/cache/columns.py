"""Rows of several shapes under one set of keys, and memory for those that the cache does not take.

A space holds rows of one shape. A shelf is a few spaces whose rows answer the same question in more or less room; which
of them has a key is looked up once, for all keys together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from cnn_tl.cache.shard import Rows
from cnn_tl.cache.space import Space
from cnn_tl.cache.writer import Writer

Add = Callable[[bytes, Rows], None]


class Memory:
    """A number of bytes that several shelves share."""

    def __init__(self, budget_bytes: int) -> None:
        self._left = budget_bytes
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> bool:
        """Take so many bytes (fewer than none gives them back); False: there are not so many left."""
        with self._lock:
            if nbytes > self._left:
                return False
            self._left -= nbytes
            return True


class Shelf:
    """Finds and keeps the row of a key, whatever its shape.

    `fetch` and `hold` may be called by many threads, while nothing else is called.

    Args:
        spaces: one for each shape that a row may have.
        memory: for rows that the spaces do not take.
    """

    def __init__(self, spaces: Iterable[Space], memory: Memory) -> None:
        self._spaces = {space.row.shape: space for space in spaces}
        self._memory = memory
        self._held: dict[bytes, Rows] = {}
        self._space_of: dict[bytes, Space] = {}

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return the keys whose row is nowhere, by the index alone; `fetch` finds the others."""
        left = [key for key in dict.fromkeys(keys) if key not in self._held]
        for space in self._spaces.values():
            absent = [left[index] for index in space.missing(left)]
            self._space_of |= dict.fromkeys(set(left).difference(absent), space)
            left = absent
        return set(left)

    def fetch(self, key: bytes) -> Rows | None:
        """Return the row, checked; None where it is not there, is damaged, or was not asked for by `missing`."""
        if (row := self._held.get(key)) is not None:
            return row
        space = self._space_of.get(key)
        return None if space is None else space.fetch(key)

    def hold(self, key: bytes, row: Rows) -> None:
        """Hold a row in memory, as long as there is room for it."""
        if key not in self._held and self._memory.take(row.nbytes):
            self._held[key] = row

    @contextmanager
    def writer(self) -> Iterator[Add]:
        """Give a function that keeps rows; at the end, also when an exception passes, what it has is written."""
        with ExitStack() as stack:
            writers: dict[Space, Writer] = {}

            def add(key: bytes, row: Rows) -> None:
                space = self._spaces[row.shape]
                if space not in writers:
                    writers[space] = stack.enter_context(space.writer())
                if writers[space].add(key, row):
                    self._space_of[key] = space
                else:
                    self.hold(key, row)

            yield add

    def mend(self) -> None:
        """Write what is held in memory, as far as there is room by now: rows that were damaged, or have vanished."""
        held, self._held = self._held, {}
        with self.writer() as add:
            for key, row in held.items():
                self._memory.take(-row.nbytes)
                add(key, row)

    def holds(self, key: bytes) -> bool:
        """Say whether the row of a key is in memory."""
        return key in self._held
