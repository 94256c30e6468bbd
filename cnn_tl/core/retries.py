"""Retries after transient failures of the machine, which say nothing about the file that was being read.

Examples are an unreliable network drive, too many open files, or a moment without memory. The read is repeated after
each of `PAUSES`. A lasting failure ends the command with a `ResourceError`. It is never mistaken for a damaged file or
recorded as one, so the same command can simply be run again.
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
"""Seconds before each retry."""

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


def is_transient(error: BaseException, path: Path | str | None = None) -> bool:
    """Return whether an exception is a transient failure of the machine, not a property of the file.

    "Permission denied" is a property of the file if its folder is accessible; if not, the drive is unavailable (an
    expired ticket, a lost mount).

    Args:
        path: the file that was being read; by default the one in the exception.
    """
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, OSError) or error.errno is None:
        return False
    if error.errno in (errno.EACCES, errno.EPERM):
        place = path if path is not None else error.filename
        return place is not None and _is_folder_refused(place)
    return error.errno in _TRANSIENT


def retried(read: Callable[[], Made], path: Path | str | None = None) -> Made:
    """Return the result of `read`, repeated after transient failures.

    Args:
        read: may be called several times.
        path: the file that it reads; None: bytes in memory.

    Raises:
        ResourceError: the failure persists.
        Exception: whatever else `read` raises, immediately.
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


def refusal(error: OSError | MemoryError, path: Path | str | None = None) -> ResourceError:
    """Return the error for a failure that persists."""
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
    """Return the system's description of a failure."""
    return error.strerror or os.strerror(error.errno or 0)


_readinto = io.FileIO.readinto


class Watched(io.FileIO):
    """A file opened for reading that records a failure of the machine, even if a decoder swallows the exception.

    It does not give away its descriptor, so no decoder can bypass it.
    """

    failure: OSError | None = None

    def readinto(self, buffer: bytearray | memoryview, /) -> int | None:  # type: ignore[override]
        """Read into a buffer, and record a failure."""
        try:
            return _readinto(self, buffer)
        except OSError as error:
            self.failure = error
            raise

    def readall(self) -> bytes:
        """Read to the end, and record a failure."""
        try:
            return super().readall()
        except OSError as error:
            self.failure = error
            raise

    def fileno(self) -> int:
        """Refuse, like a file in memory."""
        raise io.UnsupportedOperation("fileno")


def _is_folder_refused(place: str | bytes | Path) -> bool:
    """Return whether the folder of a path is inaccessible too."""
    folder = os.path.dirname(os.path.abspath(os.fsdecode(place)))  # noqa: PTH100, PTH120 - resolving would access it
    try:
        os.stat(folder)  # noqa: PTH116
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR)
    return False
