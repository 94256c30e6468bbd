"""Answers as Parquet, for large jobs: typed columns, written in groups of rows, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cnn_tl.core.errors import ResourceError, printable
from cnn_tl.inference.classifier import Answer
from cnn_tl.inference.writers import Expected

ROWS_IN_GROUP = 10_000


def require_pyarrow() -> None:
    """Import pyarrow.

    Raises:
        ResourceError: it is missing.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ResourceError("for --format parquet pyarrow is needed and not installed: pip install pyarrow") from error


def write_parquet(answers: Iterable[Answer], path: Path, expected: Expected) -> None:
    """Write the columns file, label, probability, label_2, probability_2, ..., error; null where there is nothing.

    Parquet holds text only, so bytes of a file name that are no UTF-8 are escaped, as on a terminal.
    """
    import pyarrow as pa
    from pyarrow import parquet

    kinds = [pa.float64() if name.startswith("probability") else pa.string() for name in expected.columns]
    schema = pa.schema(list(zip(expected.columns, kinds, strict=True)))
    rows = map(_cells, answers)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := list(islice(_filled(rows, len(kinds)), ROWS_IN_GROUP)):
            columns = zip(*group, strict=True)
            writer.write_table(pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], schema=schema))


def _cells(answer: Answer) -> list[Any]:
    ranked = [cell for label, probability in answer.top for cell in (_text(label), round(probability, 6))]
    return [_text(answer.file), *ranked, answer.error and _text(answer.error)]


def _filled(rows: Iterable[list[Any]], width: int) -> Iterator[list[Any]]:
    """Yield each row as wide as the table: an answer that is an error has no classes."""
    for file, *ranked, error in rows:
        yield [file, *(ranked or [None] * (width - 2)), error]


def _text(text: str) -> str:
    """Return the text itself if UTF-8 can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return printable(text)
    return text
