"""Memory that this process shares with the processes that decode images.

It is a file without a name (Windows: a mapping with a random name), which the system removes with the last process that
has it open, so nothing is left behind even if all of them are killed. On Linux it is not in /dev/shm, which is only
64 MB large in many containers, and where the name of a block survives its processes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import sys
import tempfile
import threading

import numpy as np
from numpy.typing import NDArray

_STEP = 64
"""Bytes; every place starts at a multiple of this."""


class SharedMemory:
    """A block of memory, and which places in it are taken; any thread may call the methods.

    Only pages that were written to take memory, so a large block costs nothing.

    Args:
        size: in bytes.

    Attributes:
        handle: for `attached` in another process, which inherits `descriptors`.

    Raises:
        OSError: the system gives none.
    """

    def __init__(self, size: int) -> None:
        self.descriptors: tuple[int, ...] = ()
        self.handle: tuple[int | str, int]
        if sys.platform == "win32":
            name = f"cnn-tl-{secrets.token_hex(16)}"
            self._map = mmap.mmap(-1, size, tagname=name)
            self.handle = name, size
        else:
            descriptor = _nameless_file()
            self.descriptors, self.handle = (descriptor,), (descriptor, size)
            os.ftruncate(descriptor, size)
            self._map = mmap.mmap(descriptor, size)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self._taken: list[tuple[int, int]] = []
        self._lock = threading.Lock()
        self._closed = False

    def take(self, nbytes: int) -> int | None:
        """Return the start of a free place; None: there is none of this size."""
        size = -(-max(1, nbytes) // _STEP) * _STEP
        with self._lock:
            start, index = 0, 0
            for index, (first, end) in enumerate([*self._taken, (len(self.bytes), 0)]):  # noqa: B007 - used below
                if first - start >= size:
                    break
                start = end
            else:
                return None
            self._taken.insert(index, (start, start + size))
            return start

    def free(self, start: int) -> None:
        """Give back a place that was taken."""
        with self._lock:
            self._taken = [place for place in self._taken if place[0] != start]

    def release_pages(self) -> None:
        """Give the memory back to the system if no place is taken."""
        with self._lock:
            if not (self._taken or self._closed) and hasattr(mmap, "MADV_REMOVE"):
                with contextlib.suppress(OSError):  # then it stays until `close`
                    self._map.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Let go of the block; arrays that still show a part of it stay valid."""
        with self._lock:
            self._closed = True
        del self.bytes
        with contextlib.suppress(BufferError):
            self._map.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


def attached(handle: tuple[int | str, int]) -> NDArray[np.uint8]:
    """Return the bytes of a block of another process, writeable."""
    name, size = handle
    if sys.platform == "win32":
        return np.frombuffer(mmap.mmap(-1, size, tagname=str(name)), np.uint8)
    return np.frombuffer(mmap.mmap(int(name), size), np.uint8)


def _nameless_file() -> int:
    with contextlib.suppress(AttributeError, OSError):  # only Linux has it
        return os.memfd_create("cnn-tl images", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
