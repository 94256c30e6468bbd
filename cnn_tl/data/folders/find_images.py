"""Finding the images below a folder; hidden files, special files and other formats are counted and left out."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.retries import retried
from cnn_tl.data.decoding.file_types import HEAD_BYTES, accepted_kind, has_image_extension

_HIDDEN = re.compile(r"\..*|__MACOSX|@eaDir", re.DOTALL)
_UNNAMED = 20
"""The most files without an image's extension that are opened to find out whether a folder has images."""
_DIGITS = re.compile(r"([0-9]+)")
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Error numbers for a name that does not exist, or a broken link."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file or a folder: its path, and its `stat` after following links."""

    path: Path
    facts: os.stat_result

    @property
    def identity(self) -> tuple[int, int]:
        """What identifies the file, whichever path leads to it."""
        return self.facts.st_dev, self.facts.st_ino


class Walker:
    """Lists folders below one root; counts what the user should know in `left_out` and `remarks`."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))  # `resolve` would raise on a link to itself
        self.left_out: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()

    def look(self, folder: Path) -> tuple[list[Found], list[Found]]:
        """Return the visible folders and the images directly in `folder`, in natural order.

        Raises:
            DataError: the folder, or a file in it, cannot be read.
            ResourceError: the machine could not read it, even after several attempts.
        """
        folders: list[Found] = []
        images: list[Found] = []
        for entry in entries_of(folder):
            found = None if _HIDDEN.fullmatch(entry.name) else self._follow(entry)
            if _HIDDEN.fullmatch(entry.name):
                self.left_out["hidden files and folders"] += 1
            elif found is None:
                self.left_out["broken links"] += 1
            elif stat.S_ISDIR(found.facts.st_mode):
                folders.append(found)
            elif not stat.S_ISREG(found.facts.st_mode):
                self.left_out["pipes, sockets and devices"] += 1
            elif is_candidate(found.path):
                images.append(found)
            else:
                self.left_out["files that are not images"] += 1
        return folders, images

    def images(self, class_folder: Path) -> list[Found]:
        """Return all images below a class folder, at any depth, in natural order, each file once.

        Raises:
            DataError: a folder, or a file in one, cannot be read.
        """
        real = class_folder.resolve()
        around = retried(lambda: [place.stat() for place in (real, *real.parents)], real)
        seen = {(facts.st_dev, facts.st_ino) for facts in around}
        found: list[Found] = []
        pending = [class_folder]
        while pending:
            folder = pending.pop()
            folders, images = self.look(folder)
            pending += [one.path for one in self._unseen(folders, seen)]
            fresh = self._unseen(images, seen)
            found += fresh
            if folder != class_folder:
                self.remarks["images in sub-folders of their class"] += len(fresh)
        return sorted(found, key=lambda one: natural_key(str(one.path)))

    def notes(self) -> list[str]:
        """Return what was counted, one line each."""
        left_out = [f"{what}, left out: {count:,}" for what, count in self.left_out.items() if count]
        remarks = [f"{what}: {count:,}" for what, count in self.remarks.items() if count]
        return left_out + remarks

    def _unseen(self, found: list[Found], seen: set[tuple[int, int]]) -> list[Found]:
        """Return those that are not in `seen`, and add them to it; a file with several hard links counts as several."""
        fresh = []
        for one in found:
            hard_links = one.facts.st_nlink if stat.S_ISREG(one.facts.st_mode) else 1
            if one.identity in seen and hard_links == 1:
                self.left_out["links to what was already seen"] += 1
            else:
                seen.add(one.identity)
                fresh.append(one)
        return fresh

    def _follow(self, entry: os.DirEntry[str]) -> Found | None:
        path = Path(entry.path)
        try:
            found = Found(path, retried(path.stat, path))
        except OSError as error:
            if error.errno in NOWHERE:
                return None
            raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
        if entry.is_symlink() and not path.resolve().is_relative_to(self.root):
            self.remarks["links that lead out of the folder, followed"] += 1
        return found


def natural_key(name: str) -> tuple[tuple[int | str, ...], str]:
    """Return a sort key for natural order, 2 before 10; the name itself breaks ties such as 1 and 01."""
    parts = _DIGITS.split(name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def some_of(names: Iterable[str | Path], most: int = 5) -> str:
    """Return the first few names as text, followed by the number of the others."""
    shown = [printable(name) for name in names]
    more = f" and {len(shown) - most:,} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def contents_of(folder: Path) -> tuple[list[str], bool]:
    """Return the names of the visible folders directly in `folder`, in natural order, and whether it has images.

    Raises:
        DataError: the folder cannot be read.
        ResourceError: the machine could not read it, even after several attempts.
    """

    def look() -> tuple[list[str], list[Path], bool]:
        folders: list[str] = []
        unnamed: list[Path] = []
        images = False
        with os.scandir(folder) as entries:
            for entry in entries:
                if _HIDDEN.fullmatch(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                elif has_image_extension(PurePath(entry.name)):
                    images = True
                elif len(unnamed) < _UNNAMED:
                    unnamed.append(Path(entry.path))
        return folders, unnamed, images

    try:
        folders, unnamed, images = retried(look, folder)
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be read: {error.strerror}") from error
    images = images or any(path.is_file() and is_candidate(path) for path in unnamed)
    return sorted(folders, key=natural_key), images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in NOWHERE:
            return False
        raise


def is_folder(name: str | Path) -> bool:
    """Return whether a name is a folder's; one that is too long for the system is not."""
    try:
        return stat.S_ISDIR(retried(lambda: os.stat(name), Path(name)).st_mode)  # noqa: PTH116 - the name as given
    except (OSError, ValueError):
        return False


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, hidden or not, in natural order.

    Raises:
        DataError: the folder cannot be read.
        ResourceError: the machine could not read it, even after several attempts.
    """

    def listed() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: natural_key(entry.name))

    try:
        return retried(listed, folder)
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be read: {error.strerror}") from error


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file, which tell its format.

    Raises:
        OSError: it cannot be read.
        ResourceError: the machine could not read it, even after several attempts.
    """

    def read() -> bytes:
        with path.open("rb") as stream:
            return stream.read(HEAD_BYTES)

    return retried(read, path)


def is_candidate(path: Path) -> bool:
    """Return whether a file is, or claims to be, an image."""
    if has_image_extension(path):
        return True
    try:
        return accepted_kind(head_of(path)) is not None
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
