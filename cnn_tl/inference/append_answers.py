"""`predict --append`: add answers to the end of a file, and skip the images that already have one.

A CSV file cannot say which model wrote it, so a file beside it does: `answers.csv.append.json`.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TextIO

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError, printable
from cnn_tl.core.locks import try_lock
from cnn_tl.core.progress import Observer
from cnn_tl.inference.writers import Columns

Asked = Mapping[str, float | None]
"""Option -> its value."""

LONGEST_ROW = 1 << 20
"""Bytes: more than this after the last whole row cannot be a row that a kill truncated."""


@dataclass
class EarlierAnswers:
    """The answers that a file has already.

    Attributes:
        times: image -> how many rows it has.
        failed: the images that could not be read. They count as answered; delete their rows to have them tried again.
        skipped, skipped_failures: how many images `unanswered` has left out, and how many of these had failed.
        end: where the last whole row ends, in bytes.
    """

    times: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)
    skipped: int = 0
    skipped_failures: int = 0
    end: int = 0

    def unanswered(self, images: Iterable[Path]) -> Iterator[Path]:
        """Yield the images without a row; an image that is named twice gets two rows."""
        for image in images:
            name = str(image)
            if self.times[name]:
                self.times[name] -= 1
                self.skipped += 1
                self.skipped_failures += name in self.failed
            else:
                yield image

    def count(self, name: str, *, failed: bool) -> None:
        """Count one row."""
        self.times[name] += 1
        if failed:
            self.failed.add(name)


@contextmanager
def appending(
    path: Path, format: str, model: str, columns: Columns, observer: Observer, asked: Asked | None = None
) -> Iterator[tuple[TextIO, EarlierAnswers]]:
    """Yield the file, ready for the next row, and the answers that it has; a truncated last row is dropped.

    Args:
        path: the file; it need not exist.
        format: a key of `READERS`.
        model: the digest of the model that answers.
        asked: the options that decide what is answered; None for those that are not given.

    Raises:
        ResourceError: the file cannot be written, or another process is writing to it.
        UsageError: it holds anything but answers of this model in these columns, by these options.
    """
    options = {name: value for name, value in (asked or {}).items() if value is not None}
    about = {"model": model, "format": format, "columns": columns.names, "asked": options}
    with files.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b")
    with stream:
        if try_lock(stream.fileno()) is False:
            raise ResourceError(f"another process writes to {printable(path)}; wait for it")
        length = stream.seek(0, io.SEEK_END)
        if length:
            _check(path, about)
        else:
            _begin(path, about)
        stream.seek(0)
        earlier = READERS[format](stream, path, columns)
        if earlier.end < length:
            stream.seek(earlier.end)
            tail = stream.read(LONGEST_ROW + 1)
            if len(tail) > LONGEST_ROW or not _may_be_truncated_row(tail, format, earlier, columns):
                raise _not_a_row(path, earlier.end)
            observer.note(f"the last row of {printable(path)} was truncated; its image is answered again")
            stream.truncate(earlier.end)
        stream.seek(0, io.SEEK_END)
        with files.disk_errors(path), io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="") as text:
            yield text, earlier
            text.flush()


def columns_of(path: Path, columns: Columns) -> Columns:
    """Return the columns for the rest of a file: those without verdicts where an earlier version has begun it."""
    older = replace(columns, verdicts=False)
    try:
        known = files.read_json(_about_file(path))
    except ArtefactError:
        return columns
    return older if isinstance(known, dict) and known.get("columns") == older.names else columns


def forget(path: Path) -> None:
    """Remove what is known of a file that has got other contents."""
    _about_file(path).unlink(missing_ok=True)


def _begin(path: Path, about: Mapping[str, object]) -> None:
    """Record the model and the columns of an empty file; remove the file where that fails."""
    try:
        files.write_json(_about_file(path), about)
    except ResourceError:
        path.unlink(missing_ok=True)
        raise


def _may_be_truncated_row(tail: bytes, format: str, earlier: EarlierAnswers, columns: Columns) -> bool:
    """Say whether the end of a file is the beginning of a row; anything else is not ours to remove."""
    if format == "jsonl":
        begin = b'{"file": "'
        return tail.startswith(begin) or begin.startswith(tail)
    if earlier.end:
        begun = io.StringIO(tail.decode("utf-8", "surrogateescape"), newline="")
        return all(len(cells) <= len(columns.names) for cells in csv.reader(begun))
    return ",".join(columns.names).encode().startswith(tail.rstrip(b"\r"))


def _about_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.append.json")


_DIFFERENCES = {
    "model": "answers of another model",
    "format": "other columns (--format, --top)",
    "columns": "other columns (--format, --top)",
    "asked": "answers to other promises (--max-error, --unknown)",
}


def _check(path: Path, about: Mapping[str, object]) -> None:
    try:
        known = files.read_json(_about_file(path))
    except ArtefactError as error:
        unknown = f"so it is not known who wrote {printable(path)}; choose another --output"
        raise UsageError(f"--append: {error}, {unknown}") from error
    known = {"asked": {}, **known} if isinstance(known, dict) else {}  # version 0.1 knew no such options
    different = [name for name, value in about.items() if known.get(name) != value]
    if different:
        what = next(words for name, words in _DIFFERENCES.items() if name in different)
        raise UsageError(f"--append: {printable(path)} has {what}; choose another --output")


def _read_csv(stream: BinaryIO, path: Path, columns: Columns) -> EarlierAnswers:
    earlier, names = EarlierAnswers(), columns.names
    row, quotes = b"", 0
    for line in stream:
        row += line
        quotes += line.count(b'"')
        if quotes % 2 or not line.endswith(b"\n"):  # a file name with a line break goes on in the next line
            continue
        try:
            (cells,) = csv.reader([row.decode("utf-8", "surrogateescape")], strict=True)
        except (csv.Error, ValueError):
            cells = []
        if len(cells) != len(names) or (earlier.end == 0 and cells != names):
            raise _not_a_row(path, earlier.end)
        if earlier.end:
            earlier.count(cells[0], failed=bool(cells[-1]))
        earlier.end += len(row)
        row, quotes = b"", 0
    return earlier


def _read_json_lines(stream: BinaryIO, path: Path, columns: Columns) -> EarlierAnswers:
    earlier = EarlierAnswers()
    for line in stream:
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            earlier.count(row["file"], failed=row["error"] is not None)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _not_a_row(path, earlier.end) from error
        earlier.end += len(line)
    return earlier


READERS: dict[str, Callable[[BinaryIO, Path, Columns], EarlierAnswers]] = {"csv": _read_csv, "jsonl": _read_json_lines}
"""Format -> the function that reads the answers that a file has."""


def _not_a_row(path: Path, position: int) -> UsageError:
    return UsageError(
        f"--append: {printable(path)} has something other than a row of answers at byte {position:,}; "
        "choose another --output"
    )
