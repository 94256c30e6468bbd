"""Which folders of the cache a live process works with, so that no other makes room at its cost.

A claim is a shared lock on the folder itself. It leaves no trace, and goes when its process ends, however that ends.
Where a folder cannot be locked (Windows, some network file systems) nothing is claimed, and a run whose rows are gone
computes them again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from weakref import WeakValueDictionary, finalize

ATTEMPTS = 5
"""How often a lock is tried that somebody else may hold for the moment of a question."""


class Claim:
    """A claim of this process; it ends when nothing refers to it any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        finalize(self, os.close, descriptor)

    def is_on(self, folder: Path) -> bool:
        """Say whether the folder is still the one that was claimed, not another in its place."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), folder.stat())
        except OSError:
            return False

    def is_alone(self) -> bool:
        """Say whether no other process claims the folder."""
        try:
            return _lock(self._descriptor, alone=True)
        finally:
            _lock(self._descriptor, alone=False)


_claims: WeakValueDictionary[Path, Claim] = WeakValueDictionary()


def claim(folder: Path) -> Claim | None:
    """Claim a folder for this process; None where that cannot be."""
    known = _claims.get(folder)
    if known is not None and known.is_on(folder):
        return known
    if os.name == "nt":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    made = Claim(descriptor)
    for _ in range(ATTEMPTS):
        if _lock(descriptor, alone=False):
            _claims[folder] = made
            return made
        time.sleep(0.001)
    return None


def is_claimed_by_others(folder: Path) -> bool:
    """Say whether another process works with the folder."""
    own = _claims.get(folder)
    if own is None:
        own = claim(folder)
    return own is not None and not own.is_alone()


def _lock(descriptor: int, *, alone: bool) -> bool:
    """Take the lock of a folder, alone or with others, in place of the one that is held; return whether it was free."""
    import fcntl

    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return alone  # such locks are unknown here, so nobody can have one
    return True
