"""Locks between processes: the kernel drops them when their process ends, however it ends.

One function for the run folder, the file that `predict --append` writes, and the cache folders in use. `filelock` would
not do: its shared lock is a database file, so it cannot lock a read-only folder without leaving a trace, and its
exclusive lock wants a file of its own beside the one that is locked.
"""

from __future__ import annotations

import os

_WINDOWS_OFFSET = 2**30
"""The byte that is locked on Windows. Its locks are mandatory, so this one lies beyond what anybody reads."""


def try_lock(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock an open file or folder without waiting, in place of a lock that this descriptor holds already.

    The lock ends when the descriptor is closed.

    Args:
        shared: several processes may hold it at once. Windows has no such lock.

    Returns:
        True: it is held now. False: another process holds it. None: this file system, or system, has no such locks
        (some network file systems), so nobody can hold one.
    """
    if os.name == "nt":
        return None if shared else _try_lock_on_windows(descriptor)
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _try_lock_on_windows(descriptor: int) -> bool:
    import msvcrt

    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    os.lseek(descriptor, _WINDOWS_OFFSET, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
    return True
