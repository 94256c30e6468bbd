"""Answers of `predict` as a table, printed row by row while later images are still being predicted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.cells import cell_len
from rich.text import Text

from cnn_tl.cli.terminal.tables import wrapped
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import certainty
from cnn_tl.inference.classifier import Answer
from cnn_tl.inference.writers import Columns

_WIDEST_NAME = 80
_USUAL_NAME = 40
_NARROWEST = 20
"""Widths of the file column, at most and where the names are not known; and the fewest columns for an answer."""


@dataclass(frozen=True)
class Widths:
    """The widths of the columns of file and label; `screen` is None for a pipe or a file, where no line is broken.

    Attributes:
        judged: whether the columns of verdict, distance and set are shown.
    """

    file: int
    label: int
    screen: int | None
    judged: bool = False

    @classmethod
    def of(cls, files: Sequence[Path] | None, columns: Columns, screen: int | None) -> Widths:
        """Choose widths by the longest name and label.

        Args:
            files: the images; None where they are still arriving.
            screen: columns of the screen; None where lines are not broken.
        """
        file = _USUAL_NAME if files is None else min(_WIDEST_NAME, _widest("file", *files))
        label = _widest("label", *columns.classes)
        if screen is not None:
            runners_up = min(columns.top, len(columns.classes)) - 1
            judged = len("  answered  distance  ") + label if columns.judged else 0
            answer = label + len("  probability") + judged + runners_up * (label + len(" 12.3%, "))
            answer = max(_NARROWEST, min(answer, screen - 2 - _NARROWEST))
            file = min(file, max(len("file"), screen - 2 - answer))
        return cls(file, label, screen, columns.judged)


def write_table(answers: Iterable[Answer], stream: TextIO, widths: Widths) -> None:
    """Write aligned columns: file, label, probability, what is known of doubt, and the other classes in words.

    There is no header without an answer.
    """
    for number, answer in enumerate(answers):
        if not number:
            head = ["label", "probability", *(["verdict", "distance", "set"] if widths.judged else [])]
            _write_row(stream, widths, "file", *head)
        if answer.error is not None:
            _write_row(stream, widths, printable(answer.file), f"error: {answer.error}")
            continue
        (_, share), *others = answer.top
        doubt = _doubt(answer) if widths.judged else []
        runners_up = ", ".join(f"{printable(name)} {certainty(p)}" for name, p in others)
        label = "" if answer.label is None else printable(answer.label)
        _write_row(stream, widths, printable(answer.file), label, certainty(share), *doubt, runners_up)


_FEW = 8
"""Classes of a set that are shown: of many classes it may hold hundreds."""


def _doubt(answer: Answer) -> list[str]:
    distance, members = "" if answer.distance is None else f"{answer.distance:.2f}", answer.set or ()
    more = f" and {len(members) - _FEW:,} more" if len(members) > _FEW else ""
    return [answer.verdict or "", distance, "|".join(map(printable, members[:_FEW])) + more]


_WIDTHS = (("probability", str.rjust), ("answered", str.ljust), ("distance", str.rjust))
"""The widest text of each column after the label, and how it is filled up."""


def _write_row(stream: TextIO, widths: Widths, name: str, label: str, *cells: str) -> None:
    filled = [fill(cell, len(widest)) for cell, (widest, fill) in zip(cells, _WIDTHS, strict=False)]
    answer = "  ".join((_pad(label, widths.label), *filled, *cells[len(filled) :])).rstrip()
    if widths.screen is None:
        stream.write(f"{_pad(name, widths.file)}  {answer}".rstrip() + "\n")
    else:
        if cell_len(name) > widths.file:  # such as a long path, which can be copied from a line of its own
            stream.write(f"{name}\n")
            name = ""
        for line in wrapped(Text(answer), max(_NARROWEST, widths.screen - widths.file - 2)):
            stream.write(f"{_pad(name, widths.file)}  {line.plain}".rstrip() + "\n")
            name = ""
    stream.flush()


def _widest(*texts: str | Path) -> int:
    return max(cell_len(printable(text)) for text in texts)


def _pad(text: str, width: int) -> str:
    """Fill up with blanks; some characters take two columns of a terminal."""
    return text + " " * (width - cell_len(text))
