"""Which pictures are meant: files, folders and patterns become a list of files."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnn_tl.data.walk import Walker, is_candidate, natural_key
from cnn_tl.errors import DataError, UsageError, printable


def find(images: str | Path | Iterable[str | Path], *, recursive: bool = True) -> Iterator[Path]:
    """Yield the pictures that are meant, in the order in which they are named.

    A folder stands for the pictures in it and below it, in natural order; hidden files and files that are no
    pictures are left out. A name with `*`, `?` or `[` that is not itself a file is a pattern for the pictures
    that match, with `**` for any depth. Any other name is taken as it is: reading it will tell.

    Raises:
        DataError: a folder or a pattern holds no picture, or a folder cannot be read.
        UsageError: a name is empty.
    """
    for name in [images] if isinstance(images, str | Path) else images:
        if not str(name):
            raise UsageError("one of the pictures has an empty name")
        if os.path.isdir(name):  # noqa: PTH112 - a name too long for the system is simply no folder here
            yield from _in_folder(Path(name), recursive)
        elif glob.has_magic(str(name)) and not os.path.lexists(name):
            yield from _matches(str(name))
        else:
            yield Path(name)


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    walker = Walker(folder)
    found = [entry.path for entry in (walker.pictures(folder) if recursive else walker.look(folder)[1])]
    if not found:
        deeper = "" if recursive else " (the folders in it were not searched)"
        raise DataError(f"no picture in the folder {printable(folder)}{deeper}")
    return found


def _matches(pattern: str) -> list[Path]:
    names = sorted(glob.iglob(pattern, recursive=True), key=natural_key)  # noqa: PTH207 - keeps the name as given
    found = [path for path in map(Path, names) if path.is_file() and is_candidate(path)]
    if not found:
        raise DataError(f"no picture matches {printable(pattern)}")
    return found
