"""`predict --append`: answers go to the end of a file, row by row, and what it has answered already is left out.

Which model wrote a CSV file cannot be seen in it, so that stands in a file beside it, `answers.csv.append.json`.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TextIO

from cnn_tl.cli.terminal import console
from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError, printable
from cnn_tl.core.locks import try_lock
from cnn_tl.inference.writers import Expected

LONGEST_ROW = 1 << 20
"""Bytes: more than this at the end of a file is no row that a kill has cut off."""


@dataclass
class Answered:
    """What a file of answers has already.

    Attributes:
        times: how often each image has a row.
        failed: the images that could not be read. They are answered: who wants them tried again takes their rows out.
        skipped, skipped_failures: how many images `unanswered` has left out, and how many of them had failed.
        end: the bytes of the whole rows.
    """

    times: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)
    skipped: int = 0
    skipped_failures: int = 0
    end: int = 0

    def unanswered(self, images: Iterable[Path]) -> Iterator[Path]:
        """Yield the images without a row; one that is named twice has two."""
        for image in images:
            name = str(image)
            if self.times[name]:
                self.times[name] -= 1
                self.skipped += 1
                self.skipped_failures += name in self.failed
            else:
                yield image


@contextmanager
def appending(path: Path, format: str, model: str, expected: Expected) -> Iterator[tuple[TextIO, Answered]]:
    """Yield the file, ready for the next row, and what it has; a row that a kill has cut off is taken away.

    Args:
        path: the file; it need not exist.
        format: a key of `READERS`.
        model: the digest of the model that answers.
        expected: the columns.

    Raises:
        ResourceError: it cannot be written, or another process does.
        UsageError: it holds something else than answers of this model in these columns.
    """
    about = {"model": model, "format": format, "columns": expected.columns}
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
        answered = READERS[format](stream, path, expected)
        if answered.end < length:
            stream.seek(answered.end)
            if length - answered.end > LONGEST_ROW or not _may_be_cut_off(stream.read(), format, answered, expected):
                raise _foreign(path, answered.end)
            console.note(f"the last row of {printable(path)} was cut off; its image is answered again")
            stream.truncate(answered.end)
        stream.seek(0, io.SEEK_END)
        with files.disk_errors(path), io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="") as text:
            yield text, answered
            text.flush()


def forget(path: Path) -> None:
    """Take away what stands beside a file that gets other contents."""
    _beside(path).unlink(missing_ok=True)


def _begin(path: Path, about: Mapping[str, object]) -> None:
    """Put down who writes an empty file; where that cannot be, leave none."""
    try:
        files.write_json(_beside(path), about)
    except ResourceError:
        path.unlink(missing_ok=True)
        raise


def _may_be_cut_off(tail: bytes, format: str, answered: Answered, expected: Expected) -> bool:
    """Say whether the end of a file is the beginning of a row; whatever else stands there is not ours to remove."""
    if format == "jsonl":
        begin = b'{"file": "'
        return tail.startswith(begin) or begin.startswith(tail)
    if answered.end:
        begun = io.StringIO(tail.decode("utf-8", "surrogateescape"), newline="")
        return all(len(cells) <= len(expected.columns) for cells in csv.reader(begun))
    return ",".join(expected.columns).encode().startswith(tail.rstrip(b"\r"))


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.append.json")


def _check(path: Path, about: Mapping[str, object]) -> None:
    try:
        before = files.read_json(_beside(path))
    except ArtefactError as error:
        unknown = f"so it is not known who wrote {printable(path)}; choose another --output"
        raise UsageError(f"--append: {error}, {unknown}") from error
    different = [name for name, value in about.items() if not isinstance(before, dict) or before.get(name) != value]
    if different:
        what = "answers of another model" if "model" in different else "other columns (--format, --top)"
        raise UsageError(f"--append: {printable(path)} has {what}; choose another --output")


def _read_csv(stream: BinaryIO, path: Path, expected: Expected) -> Answered:
    answered = Answered()
    row, quotes = b"", 0
    for line in stream:
        row += line
        quotes += line.count(b'"')
        if quotes % 2 or not line.endswith(b"\n"):  # a name goes on in the next line
            continue
        try:
            (cells,) = csv.reader([row.decode("utf-8", "surrogateescape")], strict=True)
        except (csv.Error, ValueError):
            cells = []
        if len(cells) != len(expected.columns) or (answered.end == 0 and cells != expected.columns):
            raise _foreign(path, answered.end)
        if answered.end:
            _count(answered, cells[0], bool(cells[-1]))
        answered.end += len(row)
        row, quotes = b"", 0
    return answered


def _read_json_lines(stream: BinaryIO, path: Path, expected: Expected) -> Answered:
    answered = Answered()
    for line in stream:
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            _count(answered, row["file"], row["error"] is not None)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _foreign(path, answered.end) from error
        answered.end += len(line)
    return answered


READERS: dict[str, Callable[[BinaryIO, Path, Expected], Answered]] = {"csv": _read_csv, "jsonl": _read_json_lines}


def _count(answered: Answered, name: str, failed: bool) -> None:
    answered.times[name] += 1
    if failed:
        answered.failed.add(name)


def _foreign(path: Path, position: int) -> UsageError:
    return UsageError(
        f"--append: {printable(path)} has something else than a row of answers at byte {position:,}; "
        "choose another --output"
    )
