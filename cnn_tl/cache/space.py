"""One space of the cache: which rows it has, and reading them.

Shards are looked at from the oldest to the newest, and of two rows with the same key the newer counts: what replaces a
damaged row is found by the next run too.
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
from cnn_tl.cache.eviction import Room
from cnn_tl.cache.index import NOWHERE, PlaceIndex, Places, as_keys
from cnn_tl.cache.location import CARD, new_shard, shards_in
from cnn_tl.cache.shard import Damaged, Gone, Index, Rows, RowType
from cnn_tl.cache.writer import Writer
from cnn_tl.core import files
from cnn_tl.core.errors import CnnTlError, printable

READ_BYTES = 8 * 2**20
"""The most that is read in one piece, or one row if that is larger."""


@dataclass
class _Shard:
    """A shard as the index knows it.

    Attributes:
        places: of its rows; they count through all shards of the space.
        warned: whether its damage was told.
    """

    path: Path
    places: range
    warned: bool = False


class Space:
    """The rows that were computed in one way. Made by `FeatureCache.space`.

    For one thread at a time, but for `fetch`: any number of threads may call it while none calls anything else.

    Attributes:
        folder: where its shards are; absent until one is written.
        row: the shape and type of a row.
    """

    def __init__(
        self,
        folder: Path,
        card: Mapping[str, object],
        row: RowType,
        room: Room,
        *,
        holds: str = "feature",
        warn: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self.folder, self.row = folder, row
        self._card, self._room, self._holds = card, room, holds
        self._fetching = threading.Lock()
        self._warn, self._note = warn, note
        self._shards: list[_Shard] = []
        self._seen: set[str] = set()
        self._index = PlaceIndex()
        self._in_memory: dict[bytes, Rows] = {}
        room.own.add(folder)
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._in_memory or self._index.find([key])[0] != NOWHERE

    def __len__(self) -> int:
        """Return the number of rows that the index knows."""
        in_memory_only = np.count_nonzero(self._index.find(list(self._in_memory)) == NOWHERE)
        return len(self._index) + int(in_memory_only)

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the indices of the keys that are not there, by the index alone: no row is read."""
        self.refresh()
        places_N = self._index.find(keys)
        for found in self._shards_of(places_N):
            self._use(found)
        return [index for index in np.flatnonzero(places_N == NOWHERE).tolist() if keys[index] not in self._in_memory]

    def read(self, key: bytes) -> Rows | None:
        """Return one row [*shape], or None where it is not there or is damaged."""
        rows, lacking = self.gather([key])
        return None if lacking else rows[0]

    def fetch(self, key: bytes) -> Rows | None:
        """Return one row [*shape] as `read` does; for many threads, which read and check side by side."""
        with self._fetching:
            place = int(self._index.find([key])[0])
            found = self._shards[bisect_right(self._shards, place, key=_first) - 1] if place != NOWHERE else None
            if found is not None:
                self._use(found)
        row = None if found is None else shard.read_row(found.path, place - found.places.start, key)
        if row is None:
            with self._fetching:
                row = self.read(key)  # says what is damaged, and forgets it
        return row

    def gather(self, keys: Sequence[bytes], out: Rows | None = None) -> tuple[Rows, list[int]]:
        """Read rows, each checked against its digest.

        Args:
            out: [N, *shape] of the space's type, to be filled; by default a new array.

        Returns:
            The rows [N, *shape] and the sorted indices of those that are not there or are damaged; these rows are left
            as they were, in a new array zero. A damaged row is forgotten: `missing` then names it.
        """
        if out is None:
            out = np.zeros((len(keys), *self.row.shape), self.row.dtype)
        assert out.shape == (len(keys), *self.row.shape)
        assert out.dtype == self.row.dtype
        places_N = self._index.find(keys)
        whole_N = np.zeros(len(keys), dtype=bool)
        for found in self._shards_of(places_N):
            self._use(found)
            try:
                self._read(found, keys, places_N, out, whole_N)
            except Gone:
                self._lose(found)
            except Damaged as damage:
                self._lose(found)
                self._discard(found.path, damage)
        for index in np.flatnonzero(~whole_N).tolist():
            if (row := self._in_memory.get(keys[index])) is not None:
                out[index] = row
                whole_N[index] = True
        return out, np.flatnonzero(~whole_N).tolist()

    @contextmanager
    def writer(self) -> Iterator[Writer]:
        """Yield a `Writer`; at the end, also when an exception passes, it writes what it still holds."""
        writer = Writer(self.row, known=self.__contains__, write=self._write, is_open=not self._room.is_closed)
        try:
            yield writer
        finally:
            writer.flush()

    def refresh(self) -> None:
        """Take in the shards that have appeared since the last time."""
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
            self._take_in(path, index)

    def _read(
        self, found: _Shard, keys: Sequence[bytes], places_N: Places, out: Rows, whole_N: NDArray[np.bool_]
    ) -> None:
        """Read from one shard what it has of `keys` into `out`, and set `whole_N` where a row proves to be whole."""
        wanted = np.flatnonzero((places_N >= found.places.start) & (places_N < found.places.stop))
        wanted = wanted[np.argsort(places_N[wanted], kind="stable")]
        positions = places_N[wanted] - found.places.start
        runs = _runs(positions, max(1, READ_BYTES // self.row.nbytes))
        bounds = [(int(positions[run[0]]), int(positions[run[-1]]) + 1) for run in runs]
        for run, (start, _), (rows, digests) in zip(runs, bounds, shard.read_rows(found.path, bounds), strict=True):
            raw = shard.row_bytes(rows)
            for index, position in zip(wanted[run].tolist(), positions[run].tolist(), strict=True):
                proof = shard.row_digest(keys[index], raw[position - start].data)
                whole_N[index] = proof == digests[position - start].tobytes()
            good = run[whole_N[wanted[run]]]
            out[wanted[good]] = rows[positions[good] - start]
        if not whole_N[wanted].all():
            self._warn_of(found, "the checksum of a row differs")
            self._index.forget(places_N[wanted[~whole_N[wanted]]])

    def _write(self, index: Index, rows: Rows) -> bool:
        """Write a shard; where that cannot be, keep the rows in memory, say why, and return False.

        From then on this process writes no more: that is said once, and what is kept in memory stays below one shard
        for each writer that was open.
        """
        reason = self._room.make(rows.nbytes + index.keys.nbytes + index.digests.nbytes)
        if reason is None:
            path = new_shard(self.folder)
            self._room.in_use.add(path)
            self._seen.add(path.name)
            try:
                self._write_file(path, index, rows)
            except (OSError, CnnTlError, SafetensorError) as error:
                reason = f"{printable(path)} cannot be written ({_cause(error)})"
        if reason is None:
            self._take_in(path, index)
            return True
        self._room.is_closed = True
        self._note(f"{self._holds}s are not kept for later runs: {reason}")
        self._in_memory.update(zip(as_keys(index.keys), rows, strict=True))
        return False

    def _write_file(self, path: Path, index: Index, rows: Rows) -> None:
        for last in (False, True):
            try:
                if not (self.folder / CARD).exists():
                    files.write_json(self.folder / CARD, self._card)
                shard.write(path, self.folder.name, index, rows)
                return
            except (OSError, CnnTlError, SafetensorError):  # another process may just have cleared the cache
                if last:
                    raise

    def _shards_of(self, places_N: Places) -> list[_Shard]:
        """Return the shards in which the places are."""
        firsts = [known.places.start for known in self._shards]
        numbers = np.searchsorted(firsts, places_N[places_N != NOWHERE], side="right") - 1
        return [self._shards[number] for number in np.unique(numbers)]

    def _use(self, found: _Shard) -> None:
        """Note that a shard is used, so that it is the last to go, and not before this process ends."""
        self._room.use(found.path)

    def _take_in(self, path: Path, index: Index) -> None:
        self._room.claim(self.folder)
        first = self._shards[-1].places.stop if self._shards else 0
        self._shards.append(_Shard(path, range(first, first + len(index.keys))))
        self._index.put(index.keys, first)

    def _lose(self, lost: _Shard) -> None:
        """Forget all rows of a shard."""
        self._index.forget(lost.places)

    def _discard(self, path: Path, damage: Damaged) -> None:
        """Remove a file of which nothing can be used, so that it is not met again."""
        self._warn(f"the {self._holds} cache was damaged: {printable(path)} ({damage}); its rows are computed again")
        if not self._room.read_only:
            with contextlib.suppress(OSError):
                path.unlink()

    def _warn_of(self, found: _Shard, damage: str) -> None:
        if not found.warned:
            found.warned = True
            self._warn(f"the {self._holds} cache was damaged: {printable(found.path)} ({damage}); it is computed again")


def _first(known: _Shard) -> int:
    return known.places.start


def _runs(positions: Places, most: int) -> list[Places]:
    """Cut sorted positions into runs without gaps that span at most `most`; return indices into `positions`."""
    breaks = (np.diff(positions) > 1) | (np.diff(positions // most) > 0)
    return np.split(np.arange(len(positions)), np.flatnonzero(breaks) + 1)


def _cause(error: BaseException) -> str:
    """Return what the system said, without the advice that is meant for other files."""
    if isinstance(error.__cause__, OSError):
        error = error.__cause__
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
