"""The files with a user's corrections of a data folder: images to leave out (exclude.txt) and new labels (relabel.csv).

Images are named by their path in the manifest: relative to the data folder, with forward slashes.

exclude.txt has one path a line; empty lines and those that begin with # are ignored. relabel.csv has a header line and
the columns `image` and `label`; further columns are ignored. A name that a plain line could not hold is written as a
JSON string in both, so that every record is one line of valid UTF-8 and a file can be appended to line by line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.text_encoding import read_text

RELABEL_HEADER = "image,label\n"

_MOST = 1 << 28
"""Characters of a file: far more than a list of ten million images has."""
_SHOWN = 60
"""Characters of a faulty line in a message."""


def read_exclude(path: Path) -> dict[str, int]:
    """Return the paths in an exclude.txt, in order, each with the number of its first line.

    Raises:
        DataError: the file cannot be read, or a line is a damaged JSON string; the message names file and line.
    """
    found: dict[str, int] = {}
    for number, line in enumerate(_text(path).split("\n"), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            found.setdefault(_name(text, path, number), number)
    return found


def read_relabel(path: Path, classes: Collection[str] | None = None) -> dict[str, str]:
    """Return image -> new class of a relabel.csv, in order; of several rows for an image the last one counts.

    Args:
        classes: the names that are allowed; None: all.

    Raises:
        DataError: the file cannot be read, lacks a column or a value, or names a class that is not in `classes`; the
            message names file and line.
    """
    found: dict[str, str] = {}
    for number, (image, label) in read_rows(path, ("image", "label")):
        if classes is not None and label not in classes:
            raise DataError(
                f"{_place(path, number)} gives {printable(image)} the class {printable(label)}, which does not exist; "
                f"the classes are {', '.join(map(printable, list(classes)[:20]))}{' ...' if len(classes) > 20 else ''}"
            )
        found.pop(image, None)
        found[image] = label
    return found


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield the line number and the values of some columns of each row of a CSV file with a header line.

    Raises:
        DataError: the file cannot be read, lacks one of the columns, or a row lacks a value in one of them.
    """
    header, rows = _table(path)
    missing = [name for name in columns if name not in header]
    if missing:
        shown = printable(",".join(header))[:_SHOWN]
        raise DataError(f"{printable(path)} has no column {missing[0]}; its first line is {shown}")
    places = [header.index(name) for name in columns]
    for number, row in rows:
        values = tuple(row[place].strip() if place < len(row) else "" for place in places)
        if not all(values):
            raise DataError(f"{_place(path, number)} has no {columns[values.index('')]}")
        yield number, tuple(_name(value, path, number) for value in values)


def columns_of(path: Path) -> list[str]:
    """Return the names of the columns of a CSV file, in lower case.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    return _table(path)[0]


def exclude_line(path: str) -> str:
    """Return the line of an exclude.txt for an image, with its line break."""
    return f"{written(path)}\n"


def relabel_row(path: str, label: str) -> str:
    """Return the row of a relabel.csv for an image and its new class, with its line break."""
    return csv_row([written(path), written(label)])


def csv_row(values: Sequence[object]) -> str:
    """Return a row of a CSV file, with its line break."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerow(values)
    return stream.getvalue()


def written(name: str) -> str:
    r"""Return a path or class as these files hold it: as it is, or as a JSON string.

    A JSON string is used for a name with a character that is not printable, such as a line break or a byte that is not
    UTF-8, for one that begins with # or ", and for one with a space at an end: `"cats/a\nb.jpg"`.
    """
    if name and name.isprintable() and name[0] not in '#"' and name == name.strip():
        return name
    return json.dumps(name)


def _name(text: str, path: Path, number: int) -> str:
    """Return the name that `written` has turned into `text`.

    Raises:
        DataError: it begins as a JSON string and is none.
    """
    if text.startswith('"'):
        try:
            name = json.loads(text)
        except ValueError as error:
            raise DataError(
                f"{_place(path, number)} begins with a quotation mark and is no JSON string: {printable(text)[:_SHOWN]}"
            ) from error
        assert isinstance(name, str)
        return name
    return text.removeprefix("./")  # as `find .` prints names


def _table(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Return the names of the columns, in lower case, and the rows that follow, each with its line number."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)

    def filled_rows() -> Iterator[tuple[int, list[str]]]:
        try:
            yield from ((reader.line_num, row) for row in reader if any(row))
        except csv.Error as error:
            raise DataError(f"{_place(path, reader.line_num)} is no CSV: {error}") from error

    rows = filled_rows()
    header = [name.strip().casefold() for name in next(rows, (0, []))[1]]
    if not header:
        raise DataError(f"{printable(path)} is empty; its first line must name its columns")
    return header, rows


def _text(path: Path) -> str:
    r"""Return the text of a file, with line breaks as \n.

    Raises:
        DataError: it cannot be read, is too large, or has another encoding.
    """
    where = printable(path)
    try:
        text = read_text(path, _MOST)
    except IsADirectoryError as error:
        raise DataError(f"{where} is a folder; expected a text file") from error
    except OSError as error:
        raise DataError(f"{where} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    if len(text) > _MOST:
        raise DataError(f"{where} has more than {_MOST:,} characters; this is no list of images")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _place(path: Path, number: int) -> str:
    return f"{printable(path)}, line {number}"
