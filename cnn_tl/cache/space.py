"""One space of the cache: the rows that were computed in the same way, found by key and checked when they are read.

Shards are indexed from the oldest to the newest. Of two rows with the same key the newer one counts, so the next run
also finds the row that replaced a damaged one.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from cnn_tl.cache import shard
from cnn_tl.cache.eviction import Eviction
from cnn_tl.cache.location import SPACE_INFO, new_shard, shards_in
from cnn_tl.cache.shard import ABSENT, Damaged, Gone, RowIndex, RowNumbers, Rows, RowType, ShardIndex, as_keys
from cnn_tl.cache.writer import Writer
from cnn_tl.core import files
from cnn_tl.core.errors import CnnTlError, printable

READ_BYTES = 8 * 2**20
"""The most that one read takes, or one row if that is larger."""


@dataclass
class _Shard:
    """A shard and the numbers of its rows, which count through all shards of the space; `warned`: of its damage."""

    path: Path
    numbers: range
    warned: bool = False


class Space:
    """The rows that were computed in one way; made by `FeatureCache.space`.

    Only one thread may use it at a time, with one exception: any number of threads may call `fetch`, while no thread
    calls anything else.

    Attributes:
        folder: where its shards are; it does not exist until one is written.
        row: the shape and type of a row.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, object],
        row: RowType,
        eviction: Eviction,
        *,
        holds: str = "feature",
        warn: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self.folder, self.row = folder, row
        self._description, self._eviction, self._holds = description, eviction, holds
        self._fetching = threading.Lock()
        self._warn, self._note = warn, note
        self._shards: list[_Shard] = []
        self._seen: set[str] = set()
        self._index = RowIndex()
        self._in_memory: dict[bytes, Rows] = {}
        eviction.own.add(folder)
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._in_memory or self._index.find([key])[0] != ABSENT

    def __len__(self) -> int:
        """Return the number of rows that the index knows."""
        in_memory_only = np.count_nonzero(self._index.find(list(self._in_memory)) == ABSENT)
        return len(self._index) + int(in_memory_only)

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions of the keys that have no row, by the index alone: no row is read."""
        self.refresh()
        numbers_N = self._index.find(keys)
        for found in self._shards_of(numbers_N):
            self._use(found)
        return [index for index in np.flatnonzero(numbers_N == ABSENT).tolist() if keys[index] not in self._in_memory]

    def read(self, key: bytes) -> Rows | None:
        """Return one row [*shape], or None if it is absent or damaged."""
        rows, lacking = self.gather([key])
        return None if lacking else rows[0]

    def fetch(self, key: bytes) -> Rows | None:
        """Return one row [*shape] as `read` does; many threads can read and check at the same time."""
        with self._fetching:
            number = int(self._index.find([key])[0])
            found = self._shards[bisect_right(self._shards, number, key=_first) - 1] if number != ABSENT else None
            if found is not None:
                self._use(found)
        row = None if found is None else shard.read_row(found.path, number - found.numbers.start, key)
        if row is None:
            with self._fetching:
                row = self.read(key)  # warns of damage, and forgets the row
        return row

    def gather(self, keys: Sequence[bytes], out: Rows | None = None) -> tuple[Rows, list[int]]:
        """Read rows, each checked against its digest.

        Args:
            out: array [N, *shape] of the space's type to fill; by default a new one, of zeros.

        Returns:
            The rows [N, *shape] and the sorted positions of those that are absent or damaged; `out` keeps its contents
            there. Damaged rows are forgotten, so `missing` then returns them.
        """
        if out is None:
            out = np.zeros((len(keys), *self.row.shape), self.row.dtype)
        assert out.shape == (len(keys), *self.row.shape)
        assert out.dtype == self.row.dtype
        numbers_N = self._index.find(keys)
        valid_N = np.zeros(len(keys), dtype=bool)
        for found in self._shards_of(numbers_N):
            self._use(found)
            try:
                self._read(found, keys, numbers_N, out, valid_N)
            except Gone:
                self._index.forget(found.numbers)
            except Damaged as damage:
                self._index.forget(found.numbers)
                self._discard(found.path, damage)
        for index in np.flatnonzero(~valid_N).tolist():
            if (row := self._in_memory.get(keys[index])) is not None:
                out[index] = row
                valid_N[index] = True
        return out, np.flatnonzero(~valid_N).tolist()

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Yield a `Writer`; at the end of the block, also after an exception, it writes its remaining rows."""
        writer = Writer(self.row, known=self.__contains__, write=self._write, is_open=not self._eviction.is_closed)
        try:
            yield writer
        finally:
            writer.flush()

    def refresh(self) -> None:
        """ShardIndex the shards that other processes have written since the last call."""
        for entry in shards_in(self.folder):
            if entry.name in self._seen:
                continue
            self._seen.add(entry.name)
            path = Path(entry.path)
            try:
                index = shard.read_index(path, self.folder.name, self.row)
            except Gone:
                continue
            except Damaged as damage:
                self._discard(path, damage)
                continue
            self._add(path, index)

    def _read(
        self, found: _Shard, keys: Sequence[bytes], numbers_N: RowNumbers, out: Rows, valid_N: NDArray[np.bool_]
    ) -> None:
        """Read one shard's rows of `keys` into `out`, and set `valid_N` where the digest of a row matches."""
        wanted = np.flatnonzero((numbers_N >= found.numbers.start) & (numbers_N < found.numbers.stop))
        wanted = wanted[np.argsort(numbers_N[wanted], kind="stable")]
        positions = numbers_N[wanted] - found.numbers.start
        ranges = _ranges(positions, max(1, READ_BYTES // self.row.nbytes))
        bounds = [(int(positions[piece[0]]), int(positions[piece[-1]]) + 1) for piece in ranges]
        for piece, (start, _), (rows, digests) in zip(ranges, bounds, shard.read_rows(found.path, bounds), strict=True):
            raw = shard.row_bytes(rows)
            for index, position in zip(wanted[piece].tolist(), positions[piece].tolist(), strict=True):
                digest = shard.row_digest(keys[index], raw[position - start].data)
                valid_N[index] = digest == digests[position - start].tobytes()
            good = piece[valid_N[wanted[piece]]]
            out[wanted[good]] = rows[positions[good] - start]
        if not valid_N[wanted].all():
            self._warn_of(found, "the checksum of a row differs")
            self._index.forget(numbers_N[wanted[~valid_N[wanted]]])

    def _write(self, index: ShardIndex, rows: Rows) -> bool:
        """Write a shard; if that is impossible, keep the rows in memory, report why, and return False.

        From then on this process writes no more, so it reports that once, and keeps at most one shard in memory for
        each open writer.
        """
        reason = self._eviction.make_room(rows.nbytes + index.keys.nbytes + index.digests.nbytes)
        if reason is None:
            path = new_shard(self.folder)
            self._eviction.in_use.add(path)
            self._seen.add(path.name)
            try:
                self._write_file(path, index, rows)
            except (OSError, CnnTlError, SafetensorError) as error:
                reason = f"{printable(path)} cannot be written ({_cause(error)})"
        if reason is None:
            self._add(path, index)
            return True
        self._eviction.is_closed = True
        self._note(f"{self._holds}s are not kept for later runs: {reason}")
        self._in_memory.update(zip(as_keys(index.keys), rows, strict=True))
        return False

    def _write_file(self, path: Path, index: ShardIndex, rows: Rows) -> None:
        for last in (False, True):
            try:
                if not (self.folder / SPACE_INFO).exists():
                    files.write_json(self.folder / SPACE_INFO, self._description)
                shard.write(path, self.folder.name, index, rows)
                return
            except (OSError, CnnTlError, SafetensorError):  # another process may have just cleared the cache
                if last:
                    raise

    def _shards_of(self, numbers_N: RowNumbers) -> list[_Shard]:
        """Return the shards that have the rows with these numbers."""
        firsts = [known.numbers.start for known in self._shards]
        positions = np.searchsorted(firsts, numbers_N[numbers_N != ABSENT], side="right") - 1
        return [self._shards[position] for position in np.unique(positions)]

    def _use(self, found: _Shard) -> None:
        self._eviction.use(found.path)

    def _add(self, path: Path, index: ShardIndex) -> None:
        self._eviction.lock(self.folder)
        first = self._shards[-1].numbers.stop if self._shards else 0
        self._shards.append(_Shard(path, range(first, first + len(index.keys))))
        self._index.put(index.keys, first)

    def _discard(self, path: Path, damage: Damaged) -> None:
        """Remove a file that is of no use any more, so that later runs do not read it."""
        self._warn(f"the {self._holds} cache was damaged: {printable(path)} ({damage}); its rows are computed again")
        if not self._eviction.read_only:
            with contextlib.suppress(OSError):
                path.unlink()

    def _warn_of(self, found: _Shard, damage: str) -> None:
        if not found.warned:
            found.warned = True
            self._warn(f"the {self._holds} cache was damaged: {printable(found.path)} ({damage}); it is computed again")


def _first(known: _Shard) -> int:
    return known.numbers.start


def _ranges(positions: RowNumbers, most: int) -> list[RowNumbers]:
    """Split sorted positions into ranges without gaps of at most `most`; return indices into `positions`."""
    breaks = (np.diff(positions) > 1) | (np.diff(positions // most) > 0)
    return np.split(np.arange(len(positions)), np.flatnonzero(breaks) + 1)


def _cause(error: BaseException) -> str:
    """Return the system's message, without the advice (choose another --output) that does not apply to the cache."""
    if isinstance(error.__cause__, OSError):
        error = error.__cause__
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
