"""One shard: some rows of a space in one safetensors file, which is written once and never changed.

    keys     uint8 [N, 32]    the key of each row
    digests  uint8 [N, 16]    the first 16 bytes of the SHA-256 of key and row
    rows     [N, *shape]

The file's metadata names the space and holds the SHA-256 of the index, which is everything but the rows. The index is
checked when the shard is opened, a row when it is read. So opening is quick, and no flipped bit is ever used.

The file is memory-mapped only while it is read. Nothing is held open, so another process can remove a shard on every
system.

`RowIndex` finds the row of a key among all shards of a space, in 16 bytes a row: millions of rows cost little memory
and time. It keeps a hash of 8 bytes of each key of 32. Two keys with the same hash are unlikely (one chance in 10^7 for
a million rows looked up among a million). If that happens, the digest, which covers the whole key, does not match, and
the row is computed again like a damaged one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cnn_tl.core import files
from cnn_tl.core.cpu import usable

Bytes = NDArray[np.uint8]
RowNumbers = NDArray[np.int64]
Rows = NDArray[Any]

ABSENT = -1
"""The number of a row that no shard has."""

KEY_BYTES = 32
DIGEST_BYTES = 16

HASHING_THREADS = 8
HASHED_ALONE_BYTES = 2**15
"""Rows with fewer bytes are hashed by one thread: the others would wait for the interpreter."""

# odd numbers without a pattern, so that keys which differ in a few bytes only (no SHA-256 does) differ in their hashes
_MIXING = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64
)  # fmt: skip

_TYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "U16", "uint8": "U8"}


class Damaged(Exception):  # noqa: N818 - never leaves the cache
    """A shard differs from what was written."""


class Gone(Exception):  # noqa: N818 - never leaves the cache
    """A shard has been removed, or may not be read."""


@dataclass(frozen=True)
class RowType:
    """The shape and numpy type of a space's rows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Return the bytes of a row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class ShardIndex:
    """The index in a shard: `keys` uint8 [N, 32] and `digests` uint8 [N, 16] of its rows."""

    keys: Bytes
    digests: Bytes

    def sha256(self, space: str) -> str:
        """Return the digest for the shard's metadata."""
        digest = hashlib.sha256(f"{space} {len(self.keys)} ".encode())
        digest.update(self.keys.tobytes())
        digest.update(self.digests.tobytes())
        return digest.hexdigest()


def row_digest(key: bytes, row: memoryview | bytes) -> bytes:
    """Return the checksum of a row and its key, 16 bytes; with the key, no row can be mistaken for another."""
    digest = hashlib.sha256(key)
    digest.update(row)
    return digest.digest()[:DIGEST_BYTES]


def row_digests(keys: Sequence[bytes], rows: Rows) -> Bytes:
    """Return the checksums of rows [N, *shape], uint8 [N, 16]; large rows, such as images, use several cores."""
    raw = row_bytes(rows)

    def of(numbers: range) -> bytes:
        return b"".join(row_digest(keys[number], raw[number].data) for number in numbers)

    threads = min(usable(), HASHING_THREADS)
    if raw.shape[1] < HASHED_ALONE_BYTES or threads == 1:
        digests = of(range(len(rows)))
    else:
        size = -(-len(rows) // threads)
        parts = [range(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
        with ThreadPoolExecutor(threads) as pool:  # hashlib releases the interpreter's lock
            digests = b"".join(pool.map(of, parts))
    return np.frombuffer(digests, np.uint8).reshape(len(rows), DIGEST_BYTES)


def row_bytes(rows: Rows) -> Bytes:
    """Return rows [N, *shape] as bytes, uint8 [N, bytes of a row], without copying them."""
    return rows.reshape(len(rows), -1).view(np.uint8)


def write(path: Path, space: str, index: ShardIndex, rows: Rows) -> None:
    """Write a shard atomically; a kill leaves all of it or nothing.

    Raises:
        ResourceError, OSError, SafetensorError: it cannot be written.
    """
    metadata = {"space": space, "index_sha256": index.sha256(space)}
    with files.atomic_path(path) as temporary:
        mode = temporary.stat().st_mode
        # not through `bytes`: a copy of the rows would double a writer's memory
        save_file({"keys": index.keys, "digests": index.digests, "rows": rows}, temporary, metadata)
        temporary.chmod(mode)  # safetensors gives only the owner access, whatever the umask


def read_index(path: Path, space: str, row: RowType) -> ShardIndex:
    """Read and check everything but the rows.

    Raises:
        Damaged: the shard is truncated, or anything but the rows differs from what was written.
        Gone: it cannot be opened.
    """
    with _opened(path) as shard:
        metadata = shard.metadata() or {}
        index = ShardIndex(shard.get_tensor("keys"), shard.get_tensor("digests"))
        rows = shard.get_slice("rows")
        count = len(index.keys)
        written = [count, *row.shape], _TYPE_NAMES[row.dtype.name]
        if (
            index.keys.shape != (count, KEY_BYTES)
            or index.digests.shape != (count, DIGEST_BYTES)
            or index.keys.dtype != np.uint8
            or index.digests.dtype != np.uint8
            or (rows.get_shape(), rows.get_dtype()) != written
        ):
            raise Damaged("it does not have the shape of its space")
        if metadata.get("space") != space or metadata.get("index_sha256") != index.sha256(space):
            raise Damaged("the checksum of its index differs")
    return index


def count(path: Path) -> int:
    """Return the number of rows in a shard, 0 if it cannot be opened; nothing else is checked."""
    try:
        with _opened(path) as shard:
            return int(shard.get_slice("keys").get_shape()[0])
    except (Damaged, Gone):
        return 0


def read_rows(path: Path, runs: list[tuple[int, int]]) -> Iterator[tuple[Rows, Bytes]]:
    """Yield the rows [stop - start, *shape] of each range (start, stop), unchecked, and their digests.

    Raises:
        Damaged: the file is no longer a whole shard.
        Gone: it was removed.
    """
    with _opened(path) as shard:
        rows, digests = shard.get_slice("rows"), shard.get_slice("digests")
        for start, stop in runs:
            yield rows[start:stop], digests[start:stop]


def read_row(path: Path, position: int, key: bytes) -> Rows | None:
    """Return one row [*shape], or None if it is damaged, has another key, or cannot be read."""
    try:
        [(rows, digests)] = read_rows(path, [(position, position + 1)])
    except (Damaged, Gone):
        return None
    if len(rows) != 1 or row_digest(key, row_bytes(rows)[0].data) != digests[0].tobytes():
        return None
    row: Rows = rows[0]
    return row


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as shard:
            yield shard
    except OSError as error:
        raise Gone(str(error)) from error
    except (SafetensorError, ValueError, TypeError, LookupError) as error:
        raise Damaged(str(error)) from error


class RowIndex:
    """Finds the number of a key's row; rows are numbered through all shards of a space."""

    def __init__(self) -> None:
        self._hashes: NDArray[np.uint64] = np.empty(0, np.uint64)  # sorted, each once
        self._numbers: RowNumbers = np.empty(0, np.int64)
        self._added: list[tuple[NDArray[np.uint64], RowNumbers]] = []

    def __len__(self) -> int:
        self._merge()
        return int(np.count_nonzero(self._numbers != ABSENT))

    def put(self, keys: Bytes, first: int) -> None:
        """Give keys uint8 [N, 32] the numbers `first`, `first` + 1, ...; a key that has a number gets the new one."""
        self._added.append((_hashes_of(keys), np.arange(first, first + len(keys))))

    def find(self, keys: Sequence[bytes]) -> RowNumbers:
        """Return the row numbers of keys [N], `ABSENT` for a key without a row."""
        self._merge()
        if not len(self._hashes) or not len(keys):
            return np.full(len(keys), ABSENT)
        hashes = _hashes_of(as_array(keys))
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, self._numbers[at], ABSENT)

    def forget(self, numbers: RowNumbers | range) -> None:
        """Forget the rows with these numbers."""
        self._merge()
        if isinstance(numbers, range):
            self._numbers[(self._numbers >= numbers.start) & (self._numbers < numbers.stop)] = ABSENT
        else:
            self._numbers[np.isin(self._numbers, numbers)] = ABSENT

    def _merge(self) -> None:
        if not self._added:
            return
        hashes = np.concatenate([self._hashes, *(hashes for hashes, _ in self._added)])
        numbers = np.concatenate([self._numbers, *(numbers for _, numbers in self._added)])
        order = np.argsort(hashes, kind="stable")
        hashes, numbers = hashes[order], numbers[order]
        is_last = np.append(hashes[1:] != hashes[:-1], True)
        self._hashes, self._numbers = hashes[is_last], numbers[is_last]
        self._added = []


def as_array(keys: Sequence[bytes]) -> Bytes:
    """Return N keys of 32 bytes as uint8 [N, 32]."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES)


def as_keys(array: Bytes) -> list[bytes]:
    """Return uint8 [N, 32] as N keys of 32 bytes."""
    data = array.tobytes()
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]


def _hashes_of(keys: Bytes) -> NDArray[np.uint64]:
    words = np.ascontiguousarray(keys).view("<u8").astype(np.uint64, copy=False)
    mixed = words * _MIXING  # modulo 2^64
    mixed ^= mixed >> np.uint64(32)
    hashes: NDArray[np.uint64] = (mixed * _MIXING[::-1]).sum(axis=1, dtype=np.uint64)
    return hashes
