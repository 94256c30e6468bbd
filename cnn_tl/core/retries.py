"""Failures of the machine that may pass: they say nothing about the file that was being read.

A network drive that hiccups, a table of open files that is full, a moment without memory: the read is tried again after
each of `PAUSES`. What lasts ends the command as a `ResourceError`; it is never taken for a damaged file, so it is never
recorded, and the same command can simply be run again.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cnn_tl.core.errors import ResourceError, printable

Made = TypeVar("Made")

PAUSES: list[float] = [0.1, 0.4, 1.5]
"""Seconds before each further attempt."""

_TRANSIENT = {
    number
    for name in (
        # the device or the drive
        "EIO", "EREMOTEIO", "ENXIO", "ENODEV", "ENOMEDIUM", "EBUSY", "ENOSPC", "EDQUOT",
        "ENODATA", "EBADMSG", "EUCLEAN",
        # the tables and the memory of the system
        "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EINTR", "EAGAIN", "EWOULDBLOCK", "ENOLCK", "EDEADLK",
        # a file system that another machine serves
        "ESTALE", "ETIMEDOUT", "ETIME", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET",
        "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ESHUTDOWN", "EPIPE", "EPROTO", "ENOLINK", "ECOMM", "ENONET",
        "ENOKEY", "EKEYEXPIRED", "EKEYREVOKED",
    )
    if (number := getattr(errno, name, None)) is not None
}  # fmt: skip


def is_transient(error: BaseException, path: Path | None = None) -> bool:
    """Say whether an exception is the machine's and may pass, rather than the fault of the file.

    "Permission denied" is a property of the file as long as the folder around it can be looked at; where that fails as
    well, the drive has gone away (an expired ticket, a mount that was lost).

    Args:
        path: what was being read; by default what the exception names.
    """
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, OSError) or error.errno is None:
        return False
    if error.errno in (errno.EACCES, errno.EPERM):
        place = path if path is not None else error.filename
        return place is not None and _is_refused_around(place)
    return error.errno in _TRANSIENT


def retried(read: Callable[[], Made], path: Path | None = None) -> Made:
    """Return what `read` returns, tried again while the machine fails in a way that may pass.

    Args:
        read: may be called several times.
        path: what it reads; None: bytes that are in memory.

    Raises:
        ResourceError: the failure has lasted.
        Exception: whatever else `read` raises, at once.
    """
    for pause in PAUSES:
        try:
            return read()
        except (OSError, MemoryError) as error:
            if not is_transient(error, path):
                raise
        time.sleep(pause)
    try:
        return read()
    except (OSError, MemoryError) as error:
        if not is_transient(error, path):
            raise
        raise refusal(error, path) from error


def refusal(error: OSError | MemoryError, path: Path | None = None) -> ResourceError:
    """Return the line for a failure that has lasted."""
    place = path if path is not None else getattr(error, "filename", None)
    where = "the image" if place is None else printable(os.fsdecode(place))
    if isinstance(error, MemoryError) or error.errno == errno.ENOMEM:
        return ResourceError(f"{where}: not enough memory to read it; close other programs, or use fewer --workers")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        what_now = "allow more of them (ulimit -n 4096), or use fewer --workers"
    else:
        what_now = "run the command again when the drive answers; if this file never can be read, remove it"
    return ResourceError(f"{where} cannot be read at the moment: {reason(error)}; {what_now}")


def reason(error: OSError) -> str:
    """Return the failure in words, as the system puts it."""
    return error.strerror or os.strerror(error.errno or 0)


_readinto = io.FileIO.readinto


class Watched(io.FileIO):
    """A file opened for reading that remembers a failure of the machine, whatever a decoder makes of it.

    It has no descriptor to give away, so that no decoder reads past it.
    """

    failure: OSError | None = None

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        """Read into a buffer, as any file does."""
        try:
            return _readinto(self, buffer)
        except OSError as error:
            self.failure = error
            raise

    def readall(self) -> bytes:
        """Read to the end."""
        try:
            return super().readall()
        except OSError as error:
            self.failure = error
            raise

    def fileno(self) -> int:
        """Refuse, as a file in memory does."""
        raise io.UnsupportedOperation("fileno")


def _is_refused_around(place: str | bytes | Path) -> bool:
    """Say whether the folder around a path cannot be looked at either."""
    folder = os.path.dirname(os.path.abspath(os.fsdecode(place)))  # noqa: PTH100, PTH120 - resolving would look at it
    try:
        os.stat(folder)  # noqa: PTH116
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    return False
