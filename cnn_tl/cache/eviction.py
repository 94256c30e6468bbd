"""Making room in the cache: its budget, the disk, and which entries may be evicted.

Entries that another process works with are never evicted. Each process holds a shared lock on the folders it uses; the
lock leaves no trace and ends with its process. Where folders cannot be locked (Windows, some network file systems), a
run whose rows were evicted computes them again.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from weakref import WeakValueDictionary, finalize

from cnn_tl.cache.inventory import Entry, entries, remove, tidy, touch
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import readable_bytes
from cnn_tl.core.locks import try_lock

GB = 10**9

KEPT_FREE_BYTES = 1 * GB
KEPT_FREE_SHARE = 0.02
"""The cache leaves a gigabyte of the disk free, or this share of a disk below 50 GB: the run has more to write."""

LOCK_ATTEMPTS = 5
"""How often a lock is tried: another process may hold it for the moment in which it asks whether it is in use."""


class Eviction:
    """Decides for one process whether more fits in the cache, and evicts the least recently used entries.

    Attributes:
        root: the cache's folder.
        budget_bytes: the most that it may hold; None: as much as the disk allows.
        for_images: whether room is for decoded images. They are large and quick to make again, so only other images
            are evicted for them, and they are evicted before features.
        read_only: nothing is written, removed or touched.
        in_use: shards and remembered networks that this process has used; they stay.
        own: folders of the spaces that this process works with; the shards of other spaces are evicted first.
        is_closed: whether something found no room; then nothing more is tried.
    """

    def __init__(
        self, root: Path, budget_bytes: int | None, *, for_images: bool = False, read_only: bool = False
    ) -> None:
        self.root = root
        self.budget_bytes = budget_bytes
        self.for_images = for_images
        self.read_only = read_only
        self.in_use: set[Path] = set()
        self.own: set[Path] = set()
        self.is_closed = False
        self._locks: dict[Path, FolderLock | None] = {}

    def refusal(self, nbytes: int) -> str | None:
        """Return why `nbytes` more cannot be kept, or None if they can; nothing is removed."""
        victims = self._victims(nbytes)
        return victims if isinstance(victims, str) else None

    def make_room(self, nbytes: int) -> str | None:
        """Evict the least recently used entries until `nbytes` more fit; return the reason if that is impossible."""
        if self.read_only:
            return "the cache is read-only here"
        victims = self._victims(nbytes)
        if isinstance(victims, str):
            return victims
        if victims:
            for entry in victims:
                remove(entry)
            tidy(self.root)
        return None

    def use(self, path: Path) -> None:
        """Record that this process uses a shard or a network: it is now the most recent one, and stays."""
        if path not in self.in_use:
            self.in_use.add(path)
            if not self.read_only:
                touch(path)

    def lock(self, folder: Path) -> None:
        """Keep other processes from evicting what is in the folder of a space, or of a network."""
        self._locks[folder] = lock_folder(folder)

    def _victims(self, nbytes: int) -> list[Entry] | str:
        """Return the entries to evict so that `nbytes` more fit, or why evicting all of them is not enough."""
        try:
            disk = shutil.disk_usage(self._writable())
        except OSError as error:
            return f"{printable(self.root)} cannot be written ({error.strerror or error})"
        held = entries(self.root)
        kept_free = min(KEPT_FREE_BYTES, int(KEPT_FREE_SHARE * disk.total))
        over_budget = 0 if self.budget_bytes is None else sum(e.nbytes for e in held) + nbytes - self.budget_bytes
        lacking = max(over_budget, kept_free + nbytes - disk.free)
        victims: list[Entry] = []
        used_by_others = cache(is_used_by_others)
        for entry in self._candidates(held):
            if lacking <= 0:
                break
            if entry.kind != "leftover" and used_by_others(_locked_folder(entry)):
                continue
            victims.append(entry)
            lacking -= entry.nbytes
        if lacking <= 0:
            return victims
        if self.budget_bytes is not None and over_budget >= kept_free + nbytes - disk.free:
            return (
                f"{readable_bytes(nbytes)} more would go beyond the cache's budget of "
                f"{readable_bytes(self.budget_bytes)}"
            )
        return (
            f"{readable_bytes(nbytes)} more would leave less than {readable_bytes(kept_free)} of the disk of "
            f"{printable(self.root)} free"
        )

    def _writable(self) -> Path:
        """Return the folder in which the cache would be written.

        Raises:
            OSError: it cannot be written.
        """
        if not self.read_only:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                return self.root
        folder = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return folder

    def _candidates(self, held: list[Entry]) -> list[Entry]:
        """Return what may be evicted, in order: leftovers, other spaces' images, their features, own shards."""
        leftovers = [entry for entry in held if entry.kind == "leftover" and entry.is_old]
        unused = [entry for entry in held if entry.kind != "leftover" and entry.path not in self.in_use]
        if self.for_images:
            unused = [entry for entry in unused if entry.holds_images]

        def order(entry: Entry) -> tuple[bool, bool, float]:
            return entry.path.parent in self.own, not entry.holds_images, entry.used

        return leftovers + sorted(unused, key=order)


class FolderLock:
    """This process's shared lock on a folder; it ends when nothing refers to it any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        finalize(self, os.close, descriptor)

    def is_on(self, folder: Path) -> bool:
        """Return whether the folder is still the one that was locked, not another one of the same name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), folder.stat())
        except OSError:
            return False

    def is_only_one(self) -> bool:
        """Return whether no other process has locked the folder, by locking it exclusively for a moment."""
        try:
            return try_lock(self._descriptor) is not False
        finally:
            try_lock(self._descriptor, shared=True)


_own_locks: WeakValueDictionary[Path, FolderLock] = WeakValueDictionary()
"""Two descriptors of one process would exclude each other, so a folder has one lock in it."""


def lock_folder(folder: Path) -> FolderLock | None:
    """Lock a folder for this process, shared with others; None where that is impossible."""
    known = _own_locks.get(folder)
    if known is not None and known.is_on(folder):
        return known
    if os.name == "nt":  # which cannot open a folder
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    made = FolderLock(descriptor)
    for _ in range(LOCK_ATTEMPTS):
        if try_lock(descriptor, shared=True):
            _own_locks[folder] = made
            return made
        time.sleep(0.001)
    return None


def is_used_by_others(folder: Path) -> bool:
    """Return whether another process works with the folder."""
    own = _own_locks.get(folder)
    if own is None:
        own = lock_folder(folder)
    return own is not None and not own.is_only_one()


def _locked_folder(entry: Entry) -> Path:
    """Return the folder that a process locks while it works with an entry."""
    return entry.path if entry.kind == "network" else entry.path.parent
