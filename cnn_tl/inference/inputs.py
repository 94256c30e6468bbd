"""Which images are meant: files, folders and patterns become a list of files, or a pipe names them."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnn_tl.core import encoding
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.retries import retried
from cnn_tl.data.folders.walk import Walker, entries_of, is_candidate, is_folder, natural_key

LONGEST_NAME = 1 << 16
"""Bytes: what is longer than this can be no path."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # a path loses the second slash
_VIDEO_EXTENSIONS = re.compile(r"\.(mp4|m4v|mov|avi|mkv|webm|mpe?g|wmv|flv|3gp|ogv|mts|m2ts)", re.IGNORECASE)


def find(images: str | Path | Iterable[str | Path], *, recursive: bool = True) -> Iterator[Path]:
    """Yield the images that are meant, in the order in which they are named.

    A folder stands for the images in it and below it, in natural order; hidden files and files that are no
    images are left out. A name with `*`, `?` or `[` that is not itself a file is a pattern for the images
    that match, with `**` for any depth. Any other name is taken as it is: reading it will tell.

    Raises:
        DataError: a folder or a pattern holds no image, a folder cannot be read, or a file is a video.
        UsageError: a name is empty, or a URL.
    """
    for name in [images] if isinstance(images, str | Path) else images:
        if not str(name):
            raise UsageError("one of the images has an empty name")
        if is_folder(name):
            yield from _in_folder(Path(name), recursive)
        elif glob.has_magic(str(name)) and not os.path.lexists(name):
            yield from _matches(str(name))
        else:
            yield _named(name)


def listed(descriptor: int, end: bytes = b"\n") -> Iterator[Path]:
    """Yield the files that a pipe names, each as soon as its name has come; folders and patterns mean nothing there.

    Args:
        descriptor: where to read, such as 0 for stdin.
        end: what ends a name; where it is a line's end, a carriage return before it belongs to it, and blank lines
            are skipped. The names are UTF-8, or UTF-16 after a byte order mark, as PowerShell writes them.

    Raises:
        DataError: what comes are no names.
        UsageError: a name is a URL; or nothing can be read there.
    """
    rest = b""
    try:
        for chunk in _in_utf8(descriptor):
            *whole, rest = (rest + chunk).split(end)
            yield from _paths(whole, end)
            if len(rest) > LONGEST_NAME:
                raise DataError("stdin has a line of more than 64 KiB, which is no path; give one path a line")
    except OSError as error:
        raise UsageError(f"stdin cannot be read: {error.strerror}; pipe one path a line into it") from error
    yield from _paths([rest], end)


def _in_utf8(descriptor: int) -> Iterator[bytes]:
    """Yield what comes through a pipe, as soon as it comes; UTF-16 is recoded, other bytes stay as they are.

    Raises:
        DataError: it begins as UTF-16 and does not go on so.
        OSError: nothing can be read.
    """
    start = b""
    while chunk := os.read(descriptor, LONGEST_NAME):
        start += chunk
        if not any(mark.startswith(start) for mark in encoding.UTF16_BOMS):
            break
    if not start.startswith(encoding.UTF16_BOMS):
        yield start
        while chunk := os.read(descriptor, LONGEST_NAME):
            yield chunk
        return
    decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
    try:
        yield decoder.decode(start).encode("utf-8", "surrogatepass")
        while chunk := os.read(descriptor, LONGEST_NAME):
            yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise DataError("stdin begins as UTF-16 text and does not go on so; write the list as UTF-8") from error


def _paths(names: Iterable[bytes], end: bytes) -> Iterator[Path]:
    for name in names:
        exact = name.removesuffix(b"\r") if end == b"\n" else name
        if exact.startswith(encoding.UTF8_BOM) and not os.path.lexists(exact):
            exact = exact.removeprefix(encoding.UTF8_BOM)  # at the start of a list, or of each of several joined ones
        if not exact or (exact.isspace() and end == b"\n" and not os.path.lexists(exact)):
            continue
        if b"\0" in exact:
            raise DataError(
                "stdin has names with NUL bytes in them; use --null where NUL ends each name, "
                "or write the list as UTF-8 if it is UTF-16 without a byte order mark"
            )
        yield _file(os.fsdecode(exact))


def _named(name: str | Path) -> Path:
    path = _file(name)
    if _VIDEO_EXTENSIONS.fullmatch(path.suffix) and os.path.isfile(path) and not is_candidate(path):  # noqa: PTH113
        raise DataError(
            f"{printable(path)} is a video, and only images are read; this takes one out of it for each second: "
            "ffmpeg -i VIDEO -r 1 frame%05d.png"
        )
    return path


def _file(name: str | Path) -> Path:
    if _URL.match(str(name)) and not os.path.lexists(name):
        raise UsageError(f"{printable(name)} is a URL, and only files are read; download it first")
    return Path(name)


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    walker = Walker(folder)
    found = [entry.path for entry in (walker.images(folder) if recursive else walker.look(folder)[1])]
    if not found:
        deeper = "" if recursive else " (the folders in it were not searched)"
        left_out = "".join(f"; {note}" for note in walker.notes())
        raise DataError(f"no image in the folder {printable(folder)}{deeper}{left_out}")
    return found


def _matches(pattern: str) -> list[Path]:
    base = Path(pattern[: re.search(r"[*?[]", pattern).start()] + "x").parent  # type: ignore[union-attr]
    if is_folder(base):
        list(entries_of(base))  # `glob` takes a folder that cannot be read for an empty one
    names = sorted(glob.iglob(pattern, recursive=True), key=natural_key)  # noqa: PTH207 - keeps the name as given
    found = [path for path in map(Path, names) if retried(path.is_file, path) and is_candidate(path)]
    if not found:
        others = f" (of the {len(names):,} that match, none is one)" if names else ""
        raise DataError(f"no image matches {printable(pattern)}{others}")
    return found
