"""Find image files: from paths, folders and patterns, or from a list of paths on stdin."""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnn_tl.core import text_encoding
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.retries import retried
from cnn_tl.data.folders.find_images import Walker, entries_of, is_candidate, is_folder, natural_key

LONGEST_NAME = 1 << 16
"""Bytes: no path is longer than this."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # pathlib drops the second slash
_VIDEO_EXTENSIONS = re.compile(r"\.(mp4|m4v|mov|avi|mkv|webm|mpe?g|wmv|flv|3gp|ogv|mts|m2ts)", re.IGNORECASE)


def find(images: str | Path | Iterable[str | Path], *, recursive: bool = True) -> Iterator[Path]:
    """Yield image files in the order in which they are named.

    A folder means the images in it and below it, in natural order, without hidden files and other kinds of files. A
    name with `*`, `?` or `[` that is not itself a file is a pattern for the images that match; `**` matches folders of
    any depth. Any other name is yielded as it is, and fails when it is read.

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


def paths_from(descriptor: int, end: bytes = b"\n") -> Iterator[Path]:
    """Yield the paths that arrive through a pipe, each as soon as it is complete; folders are not expanded.

    Args:
        descriptor: the file descriptor to read, such as 0 for stdin.
        end: the byte after each path. For a line feed, a carriage return before it is dropped and blank lines are
            skipped. Paths are UTF-8, or UTF-16 after a byte order mark, as PowerShell writes them.

    Raises:
        DataError: the bytes are not a list of paths.
        UsageError: a path is a URL, or the descriptor cannot be read.
    """
    rest = b""
    try:
        for chunk in _in_utf8(descriptor):
            *whole, rest = (rest + chunk).split(end)
            yield from _paths(whole, end)
            if len(rest) > LONGEST_NAME:
                raise DataError("stdin has a line of more than 64 KiB, which cannot be a path; write one path per line")
    except OSError as error:
        raise UsageError(f"stdin cannot be read: {error.strerror}; pipe one path per line into it") from error
    yield from _paths([rest], end)


def _in_utf8(descriptor: int) -> Iterator[bytes]:
    """Yield the bytes of a pipe as they arrive; UTF-16 becomes UTF-8, any other bytes are not changed.

    Raises:
        DataError: the pipe begins with UTF-16 and continues with something else.
        OSError: the pipe cannot be read.
    """
    start = b""
    while chunk := os.read(descriptor, LONGEST_NAME):
        start += chunk
        if not any(mark.startswith(start) for mark in text_encoding.UTF16_BOMS):
            break
    if not start.startswith(text_encoding.UTF16_BOMS):
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
        raise DataError("stdin begins as UTF-16 but is not UTF-16 throughout; write the list as UTF-8") from error


def _paths(names: Iterable[bytes], end: bytes) -> Iterator[Path]:
    for name in names:
        exact = name.removesuffix(b"\r") if end == b"\n" else name
        if exact.startswith(text_encoding.UTF8_BOM) and not os.path.lexists(exact):
            exact = exact.removeprefix(
                text_encoding.UTF8_BOM
            )  # at the start of a list, or of each list when several are joined
        if not exact or (exact.isspace() and end == b"\n" and not os.path.lexists(exact)):
            continue
        if b"\0" in exact:
            raise DataError(
                "stdin has paths that contain NUL bytes; use --null if NUL ends each path, "
                "or write the list as UTF-8 if it is UTF-16 without a byte order mark"
            )
        yield _file(os.fsdecode(exact))


def _named(name: str | Path) -> Path:
    path = _file(name)
    if _VIDEO_EXTENSIONS.fullmatch(path.suffix) and os.path.isfile(path) and not is_candidate(path):  # noqa: PTH113
        raise DataError(
            f"{printable(path)} is a video, and only images are read; extract one frame per second with "
            "ffmpeg -i VIDEO -r 1 frame%05d.png"
        )
    return path


def _file(name: str | Path) -> Path:
    if _URL.match(str(name)) and not os.path.lexists(name):
        raise UsageError(f"{printable(name)} is a URL, but only files are read; download it first")
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
        list(entries_of(base))  # raises for an unreadable folder, which `glob` takes for an empty one
    names = sorted(glob.iglob(pattern, recursive=True), key=natural_key)  # noqa: PTH207 - keeps the name as given
    found = [path for path in map(Path, names) if retried(path.is_file, path) and is_candidate(path)]
    if not found:
        kinds = (
            "1 file matches and is not an image" if len(names) == 1 else f"{len(names):,} files match and none is one"
        )
        others = f" ({kinds})" if names else ""
        raise DataError(f"no image matches {printable(pattern)}{others}")
    return found
