"""One shard: some rows of a space in one safetensors file, which is written once and never changed.

    keys     uint8 [N, 32]    what each row is the answer to
    digests  uint8 [N, 16]    the first 16 bytes of the SHA-256 of key and row
    rows     [N, *shape]

The file's metadata names the space and holds the SHA-256 of the index, that is of all but the rows. The index is
checked when the shard is opened, a row when it is read; so opening is quick, and no flipped bit is ever used.

The file is mapped into memory while it is read and let go at once: nothing is held open, so a shard that another
process removes is simply gone, on every system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cnn_tl.cache.index import KEY_BYTES, Bytes
from cnn_tl.core import files

Rows = NDArray[Any]

DIGEST_BYTES = 16

_TYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "U16", "uint8": "U8"}


class Damaged(Exception):  # noqa: N818 - never leaves the cache
    """A shard is not what was once written."""


class Gone(Exception):  # noqa: N818 - never leaves the cache
    """A shard is no longer there, or may not be read."""


@dataclass(frozen=True)
class RowType:
    """What a row of a space is: its shape, and its type as numpy knows it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Return the bytes of a row."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Index:
    """What a shard says about its rows: `keys` uint8 [N, 32] and `digests` uint8 [N, 16]."""

    keys: Bytes
    digests: Bytes

    def sha256(self, space: str) -> str:
        """Return the digest that the shard's metadata holds."""
        digest = hashlib.sha256(f"{space} {len(self.keys)} ".encode())
        digest.update(self.keys.tobytes())
        digest.update(self.digests.tobytes())
        return digest.hexdigest()


def row_digest(key: bytes, row: memoryview | bytes) -> bytes:
    """Return the 16 bytes that prove a row: of its key too, so that no row can pass for another."""
    digest = hashlib.sha256(key)
    digest.update(row)
    return digest.digest()[:DIGEST_BYTES]


def row_bytes(rows: Rows) -> Bytes:
    """Return rows [N, *shape] as bytes, uint8 [N, bytes of a row], without copying them."""
    return rows.reshape(len(rows), -1).view(np.uint8)


def write(path: Path, space: str, index: Index, rows: Rows) -> None:
    """Write a shard atomically; a kill leaves all of it or nothing.

    Raises:
        ResourceError, OSError, SafetensorError: it cannot be written.
    """
    metadata = {"space": space, "index_sha256": index.sha256(space)}
    with files.atomic_path(path) as temporary:
        mode = temporary.stat().st_mode
        # not by way of `bytes`: a copy of the rows would double the memory that a writer needs
        save_file({"keys": index.keys, "digests": index.digests, "rows": rows}, temporary, metadata)
        temporary.chmod(mode)  # safetensors writes for the owner alone, whatever the umask


def read_index(path: Path, space: str, row: RowType) -> Index:
    """Read and check everything but the rows.

    Raises:
        Damaged: the shard is truncated, or anything but the rows is not as it was written.
        Gone: it cannot be opened.
    """
    with _opened(path) as shard:
        metadata = shard.metadata() or {}
        index = Index(shard.get_tensor("keys"), shard.get_tensor("digests"))
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
    """Return the number of rows that a shard says it has, 0 where it cannot be opened; nothing else is checked."""
    try:
        with _opened(path) as shard:
            return int(shard.get_slice("keys").get_shape()[0])
    except (Damaged, Gone):
        return 0


def read_rows(path: Path, runs: list[tuple[int, int]]) -> Iterator[tuple[Rows, Bytes]]:
    """Yield the rows [stop - start, *shape] of each run (start, stop), not yet checked, and their digests.

    Raises:
        Damaged: the file is no longer a whole shard.
        Gone: it was removed.
    """
    with _opened(path) as shard:
        rows, digests = shard.get_slice("rows"), shard.get_slice("digests")
        for start, stop in runs:
            yield rows[start:stop], digests[start:stop]


def read_row(path: Path, position: int, key: bytes) -> Rows | None:
    """Return one row [*shape], or None where it is not whole, not of this key, or cannot be read."""
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
