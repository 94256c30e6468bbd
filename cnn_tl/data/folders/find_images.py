"""Finding the images below a folder; hidden files, special files and other formats are counted and left out."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.retries import retried
from cnn_tl.data.decoding.file_types import HEAD_BYTES, accepted_kind, has_image_extension

_HIDDEN = ("__MACOSX", "@eaDir")
"""Names of folders that a system has added, hidden like those that begin with a dot."""
_UNNAMED = 20
"""The most files without an image's extension that are opened to find out whether a folder has images."""
_DIGITS = re.compile(r"([0-9]+)")
_IS_WINDOWS = os.name == "nt"
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Error numbers for a name that does not exist, or a broken link."""


class Found:
    """A file or a folder, and its `stat` after following links, which is read when it is first asked for.

    Attributes:
        name: its path as text. is_link: whether it is a link to the file or folder.
    """

    __slots__ = ("_facts", "is_link", "name")

    def __init__(self, name: str, facts: os.stat_result | None = None, *, is_link: bool = False) -> None:
        self.name, self._facts, self.is_link = name, facts, is_link

    @property
    def path(self) -> Path:
        """Its path."""
        return Path(self.name)

    @property
    def facts(self) -> os.stat_result:
        """Its `stat`.

        Raises:
            DataError: it cannot be read.
            ResourceError: the machine could not read it, even after several attempts.
        """
        if self._facts is None:
            try:
                self._facts = _stat(self.name)
            except OSError as error:
                raise DataError(f"{printable(self.name)} cannot be read: {error.strerror}") from error
        return self._facts

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
            if _is_hidden(entry.name):
                self.left_out["hidden files and folders"] += 1
                continue
            found, kind = self._found(entry)
            if found is None:
                self.left_out["broken links"] += 1
            elif kind == stat.S_IFDIR:
                folders.append(found)
            elif kind != stat.S_IFREG:
                self.left_out["pipes, sockets and devices"] += 1
            elif is_candidate(found.name):
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
        linked = _IS_WINDOWS  # only a link can lead to a file a second time: without one, no file's `stat` is needed
        found: list[Found] = []
        visited = 0
        pending = [class_folder]
        while pending:
            folder = pending.pop()
            visited += 1
            folders, images = self.look(folder)
            pending += [one.path for one in self._unseen(folders, seen)]
            if not linked and any(one.is_link for one in (*folders, *images)):
                linked = True
                seen.update(one.identity for one in found)
            fresh = self._unseen(images, seen) if linked else images
            found += fresh
            if folder != class_folder:
                self.remarks["images in sub-folders of their class"] += len(fresh)
        return sorted(found, key=lambda one: natural_key(one.name)) if visited > 1 else found

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

    def _found(self, entry: os.DirEntry[str]) -> tuple[Found | None, int]:
        """Return what an entry is, and its type as in `stat`; None for a link that leads nowhere."""
        try:
            if entry.is_file(follow_symlinks=False) and not _IS_WINDOWS:
                return Found(entry.path), stat.S_IFREG  # the listing has told: no `stat` is needed
        except OSError:  # the file system's listings have no types
            pass
        found = self._follow(entry)
        return found, 0 if found is None else stat.S_IFMT(found.facts.st_mode)

    def _follow(self, entry: os.DirEntry[str]) -> Found | None:
        is_link = entry.is_symlink()
        try:
            found = Found(entry.path, _stat(entry.path), is_link=is_link)
        except OSError as error:
            if error.errno in NOWHERE:
                return None
            raise DataError(f"{printable(entry.path)} cannot be read: {error.strerror}") from error
        if is_link and not found.path.resolve().is_relative_to(self.root):
            self.remarks["links that lead out of the folder, followed"] += 1
        return found


def _stat(name: str) -> os.stat_result:
    return retried(lambda: os.stat(name), name)  # noqa: PTH116


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN


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
                if _is_hidden(entry.name):
                    continue
                if _is_folder(entry):
                    folders.append(entry.name)
                elif has_image_extension(entry.name):
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


def is_candidate(path: str | Path) -> bool:
    """Return whether a file is, or claims to be, an image."""
    if has_image_extension(path):
        return True
    try:
        return accepted_kind(head_of(Path(path))) is not None
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
