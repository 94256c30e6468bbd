"""Answers as JSON, JSON lines, CSV and HTML on a stream, Parquet in a file. All but JSON are written row by row.

File names are written as they are; Parquet, which holds UTF-8 only, gets them escaped where they are not UTF-8.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from cnn_tl.core.errors import BadImageError, ResourceError, printable
from cnn_tl.inference.classifier import Answer

if TYPE_CHECKING:
    from cnn_tl.pages.content import Card

ROWS_IN_GROUP = 10_000
"""Rows of a Parquet file that are held in memory and written together."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table of answers, which are known before the first answer is.

    Attributes:
        classes: all classes of the model.
        top: how many classes each answer lists.
        header: whether to write the names; not at the end of a file that has them.
        flushed: whether each row must be there for others before the next one is known.
        judged: whether the model knows sets or distances; a table on a terminal leaves them out otherwise.
        verdicts: whether there are columns of verdict, set and distance; not in a file that an earlier version began.
    """

    classes: Sequence[str]
    top: int
    header: bool = True
    flushed: bool = True
    judged: bool = False
    verdicts: bool = True

    @property
    def names(self) -> list[str]:
        """The names: file, label, probability, label_2, probability_2, ..., verdict, set, distance, error."""
        ranks = range(1, min(self.top, len(self.classes)) + 1)
        best = [name if rank == 1 else f"{name}_{rank}" for rank in ranks for name in ("label", "probability")]
        return ["file", *best, *(["verdict", "set", "distance"] if self.verdicts else []), "error"]


def write_json(answers: Iterable[Answer], stream: TextIO, columns: Columns) -> None:
    """Write one JSON list, once the last answer is known."""
    json.dump([answer.to_dict() for answer in answers], stream, indent=2, allow_nan=False)
    stream.write("\n")


def write_json_lines(answers: Iterable[Answer], stream: TextIO, columns: Columns) -> None:
    """Write one JSON object a line."""
    for answer in answers:
        stream.write(json.dumps(answer.to_dict(), allow_nan=False) + "\n")
        if columns.flushed:
            stream.flush()


def write_csv(answers: Iterable[Answer], stream: TextIO, columns: Columns) -> None:
    """Write CSV (RFC 4180), probabilities with six digits, sets as "cat|dog"; what is not known is an empty cell."""
    table = csv.writer(stream)
    if columns.header:
        table.writerow(columns.names)
    for answer in answers:
        cells: list[str] = [cell for label, share in answer.top for cell in (label, f"{share:.6f}")]
        if cells:
            cells[0] = answer.label or ""  # empty where the answer is withheld
        if cells and columns.verdicts:
            members = "|".join(map(_member, answer.set or ()))
            cells += [answer.verdict or "", members, "" if answer.distance is None else f"{answer.distance:.4f}"]
        table.writerow([answer.file, *(cells or [""] * (len(columns.names) - 2)), answer.error or ""])
        if columns.flushed:
            stream.flush()


def _member(label: str) -> str:
    r"""Return a class of a set, in which | stands between classes: a | of its own is \|."""
    return label.replace("\\", "\\\\").replace("|", "\\|")


def write_html(answers: Iterable[Answer], stream: TextIO, columns: Columns) -> None:
    """Write a contact sheet: one page with a thumbnail of each image, as far as they fit."""
    from cnn_tl.pages.contact_sheet import contact_sheet
    from cnn_tl.pages.content import Card

    cards = (
        Card(
            answer.file,
            None,
            answer.top,
            error=answer.error,
            verdict=answer.verdict,
            members=answer.set,
            distance=answer.distance,
            withheld=answer.label is None and answer.error is None,
        )
        for answer in answers
    )
    for piece in contact_sheet(cards, columns.classes, columns.top, _thumbnail, judged=columns.judged):
        stream.write(piece)
        if columns.flushed:
            stream.flush()


def _thumbnail(card: Card) -> bytes | None:
    from cnn_tl.pages.thumbnail import thumbnail_of_file

    with suppress(BadImageError):  # changed since it was predicted
        return thumbnail_of_file(Path(card.file))
    return None


WRITERS: dict[str, Callable[[Iterable[Answer], TextIO, Columns], None]] = {
    "json": write_json,
    "jsonl": write_json_lines,
    "csv": write_csv,
    "html": write_html,
}
"""Format -> the function that writes answers to a text stream."""


def require_pyarrow() -> None:
    """Import pyarrow.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ResourceError("--format parquet needs pyarrow, which is not installed: pip install pyarrow") from error


def require_jinja2() -> None:
    """Import jinja2.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ResourceError("--format html needs jinja2, which is not installed: pip install jinja2") from error


def write_parquet(answers: Iterable[Answer], path: Path, columns: Columns) -> None:
    """Write typed columns in groups of rows, so that memory stays flat; null where a CSV cell would be empty."""
    import pyarrow as pa
    from pyarrow import parquet

    names = columns.names
    kinds = [_parquet_kind(pa, name) for name in names]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    rows = _parquet_rows(answers, len(names))
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, ROWS_IN_GROUP)):
            cells = zip(*group, strict=True)
            writer.write_table(pa.table([pa.array(c, k) for c, k in zip(cells, kinds, strict=True)], schema=schema))


def _parquet_kind(pa: Any, name: str) -> Any:
    if name == "set":
        return pa.list_(pa.string())
    return pa.float64() if name.startswith(("probability", "distance")) else pa.string()


def _parquet_rows(answers: Iterable[Answer], width: int) -> Iterator[list[Any]]:
    for answer in answers:
        cells: list[Any] = [cell for label, share in answer.top for cell in (_utf8(label), round(share, 6))]
        if cells:
            cells[0] = answer.label and _utf8(answer.label)
            members = None if answer.set is None else [_utf8(label) for label in answer.set]
            cells += [answer.verdict, members, None if answer.distance is None else round(answer.distance, 4)]
        yield [_utf8(answer.file), *(cells or [None] * (width - 2)), answer.error and _utf8(answer.error)]


def _utf8(text: str) -> str:
    """Return the text itself where UTF-8 can hold it, else escaped as on a terminal."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return printable(text)
    return text
