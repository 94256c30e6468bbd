"""Rows of several shapes under one set of keys, such as decoded images, and memory for those that the cache refuses.

A space holds rows of one shape. A `MultiShapeSpace` combines several spaces in which a key has one row, in whichever of
them has its shape; that is looked up once, for all keys together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from cnn_tl.cache.shard import Rows
from cnn_tl.cache.space import Space
from cnn_tl.cache.writer import Writer

Add = Callable[[bytes, Rows], None]


class MemoryBudget:
    """A number of bytes that several `MultiShapeSpace`s share."""

    def __init__(self, budget_bytes: int) -> None:
        self._left = budget_bytes
        self._lock = threading.Lock()

    @property
    def left(self) -> int:
        """The number of bytes that are left."""
        return self._left

    def take(self, nbytes: int) -> bool:
        """Take bytes from the budget, or return them if negative; False: not that many are left."""
        with self._lock:
            if nbytes > self._left:
                return False
            self._left -= nbytes
            return True


class MultiShapeSpace:
    """Finds and keeps the row of a key, whatever its shape.

    Many threads may call `fetch` and `hold`, while no thread calls anything else.

    Args:
        spaces: one for each shape that a row can have.
        memory: for rows that the spaces refuse.
    """

    def __init__(self, spaces: Iterable[Space], memory: MemoryBudget) -> None:
        self._spaces = {space.row.shape: space for space in spaces}
        self._memory = memory
        self._held: dict[bytes, Rows] = {}
        self._space_of: dict[bytes, Space] = {}

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Return the keys that have no row, by the index alone; `fetch` finds the others."""
        left = [key for key in dict.fromkeys(keys) if key not in self._held]
        for space in self._spaces.values():
            absent = [left[index] for index in space.missing(left)]
            self._space_of |= dict.fromkeys(set(left).difference(absent), space)
            left = absent
        return set(left)

    def fetch(self, key: bytes) -> Rows | None:
        """Return the row, checked; None if it is absent, damaged, or its key was not passed to `missing` before."""
        if (row := self._held.get(key)) is not None:
            return row
        space = self._space_of.get(key)
        return None if space is None else space.fetch(key)

    def hold(self, key: bytes, row: Rows) -> None:
        """Keep a row in memory if the budget allows it."""
        if key not in self._held and self._memory.take(row.nbytes):
            self._held[key] = row

    @contextmanager
    def writer(self) -> Iterator[Add]:
        """Yield a function that adds rows; at the end of the block, also after an exception, they are written."""
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

    def write_held(self) -> None:
        """Write the rows held in memory, which were damaged or had vanished, as far as there is room by now."""
        held, self._held = self._held, {}
        with self.writer() as add:
            for key, row in held.items():
                self._memory.take(-row.nbytes)
                add(key, row)

    def holds(self, key: bytes) -> bool:
        """Return whether the row of a key is in memory."""
        return key in self._held
