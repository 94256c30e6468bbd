"""Answers as text: a table for people, JSON, JSON lines or CSV for machines; all but JSON are streamed.

People see file names escaped; machines get them as they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.text import Text

from cnn_tl.cli.terminal.line_breaks import broken
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import certainty
from cnn_tl.inference.classifier import Answer

_WIDEST_NAME = 80
_LIKELY_WIDTH = 40
_NARROWEST = 20
"""Columns of a table's names, and the fewest that an answer is broken to."""


@dataclass(frozen=True)
class Expected:
    """What is known of the answers before they come: it fixes the columns.

    Attributes:
        files: the images; None while a pipe still names them.
        classes: all classes of the model.
        top: how many of them each answer lists.
        begun: whether the answers go on in a file that has some already.
        columns_wide: of the screen that a table goes to; None for a file or a pipe, whose lines are not broken.
    """

    files: Sequence[Path] | None
    classes: Sequence[str]
    top: int
    begun: bool = False
    columns_wide: int | None = None

    @property
    def columns(self) -> list[str]:
        """The names of a table's columns."""
        ranks = range(1, min(self.top, len(self.classes)) + 1)
        best = [name if rank == 1 else f"{name}_{rank}" for rank in ranks for name in ("label", "probability")]
        return ["file", *best, "error"]


def write_table(answers: Iterable[Answer], stream: TextIO, expected: Expected) -> None:
    """Write aligned columns: file, label, probability, and the runners-up in words; nothing without an answer."""
    files, screen = expected.files, expected.columns_wide
    name_width = _LIKELY_WIDTH if files is None else min(_WIDEST_NAME, _widest("file", *files))
    label_width = _widest("label", *expected.classes)
    if screen is not None:
        runners_up = min(expected.top, len(expected.classes)) - 1
        answer_width = label_width + len("  probability") + runners_up * (label_width + len(" 12.3%, "))
        answer_width = max(_NARROWEST, min(answer_width, screen - 2 - _NARROWEST))
        name_width = min(name_width, max(len("file"), screen - 2 - answer_width))

    def write(name: str, label: str, probability: str, others: str = "") -> None:
        answer = "  ".join((_pad(label, label_width), f"{probability:>11}", others)).rstrip()
        if screen is None:
            stream.write(f"{_pad(name, name_width)}  {answer}".rstrip() + "\n")
        else:
            if cell_len(name) > name_width:  # such as a long path: on a line of its own it can be copied
                stream.write(f"{name}\n")
                name = ""
            for line in broken(Text(answer), max(_NARROWEST, screen - name_width - 2)):
                stream.write(f"{_pad(name, name_width)}  {line.plain}".rstrip() + "\n")
                name = ""
        stream.flush()

    for number, answer in enumerate(answers):
        if not number:
            write("file", "label", "probability")
        if answer.error is not None:
            write(printable(answer.file), f"error: {answer.error}", "")
        else:
            (label, probability), *others = ((printable(name), certainty(p)) for name, p in answer.top)
            write(printable(answer.file), label, probability, ", ".join(" ".join(other) for other in others))


def write_json(answers: Iterable[Answer], stream: TextIO, expected: Expected) -> None:
    """Write one JSON list, when the last answer is there."""
    json.dump([answer.to_dict() for answer in answers], stream, indent=2, allow_nan=False)
    stream.write("\n")


def write_json_lines(answers: Iterable[Answer], stream: TextIO, expected: Expected) -> None:
    """Write one JSON object a line."""
    for answer in answers:
        stream.write(json.dumps(answer.to_dict(), allow_nan=False) + "\n")
        stream.flush()


def write_csv(answers: Iterable[Answer], stream: TextIO, expected: Expected) -> None:
    """Write CSV (RFC 4180): file,label,probability,label_2,probability_2,...,error."""
    table = csv.writer(stream)
    if not expected.begun:
        table.writerow(expected.columns)
    for answer in answers:
        cells = [cell for label, probability in answer.top for cell in (label, f"{probability:.6f}")]
        table.writerow([answer.file, *(cells or [""] * (len(expected.columns) - 2)), answer.error or ""])
        stream.flush()


WRITERS: dict[str, Callable[[Iterable[Answer], TextIO, Expected], None]] = {
    "table": write_table,
    "json": write_json,
    "jsonl": write_json_lines,
    "csv": write_csv,
}


def _widest(*texts: str | Path) -> int:
    return max(cell_len(printable(text)) for text in texts)


def _pad(text: str, width: int) -> str:
    """Fill up with spaces to the width on a terminal, where some characters take two places."""
    return text + " " * (width - cell_len(text))
