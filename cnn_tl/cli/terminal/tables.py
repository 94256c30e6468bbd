"""Line breaks and tables that never cut a word, however narrow the screen.

rich's own tables cut a word that is longer than its column. Here a column is at least as wide as its longest word, and
a cell that still does not fit, such as a path, goes on a line of its own, where it can be copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_WORD = re.compile(r"\s*\S+")
_INDENT = 3


def wrapped(text: Text, width: int) -> list[Text]:
    """Break a text between words into lines of at most `width` columns; a longer word gets a line of its own.

    rich's `Text.wrap` either cuts such a word or breaks nothing.
    """
    lines = []
    for paragraph in text.split("\n", allow_blank=True):
        cuts, used = [], 0
        for found in _WORD.finditer(paragraph.plain):
            word = found.group()
            if used and used + cell_len(word) > width:
                cuts.append(found.start())
                word, used = word.lstrip(), 0
            used += cell_len(word)
        parts = paragraph.divide(cuts)
        for number, part in enumerate(parts):
            part.rstrip()
            if number:
                part = part[len(part.plain) - len(part.plain.lstrip()) :]
            lines.append(part)
    return lines


def longest_word(text: Text) -> int:
    """Return the width of the longest word in columns."""
    return max(map(cell_len, text.plain.split()), default=0)


class Grid:
    """A plain table: a header, a rule, and rows.

    Args:
        columns: the headers; one that ends in `>` aligns its column to the right.
        rows: one cell per column.
        dense: put fewer blanks between columns.
    """

    def __init__(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, dense: bool = False) -> None:
        self.header = [Text(name.removesuffix(">"), style="bold") for name in columns]
        self.right = [name.endswith(">") for name in columns]
        self.rows = [[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row] for row in rows]
        self.gap = 2 if dense else 3

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of the table, at most as wide as the screen."""
        for line in self._lines(options.max_width):
            line.rstrip()
            line.no_wrap, line.overflow = True, "ignore"
            yield line

    def _lines(self, screen: int) -> Iterator[Text]:
        room = screen - 1 - self.gap * (len(self.header) - 1)
        limits = self._longest_words_that_fit(room)
        kept = [[_blank(cell, limit) for cell, limit in zip(row, limits, strict=True)] for row in self.rows]
        widths = self._widths([self.header, *kept], room)
        yield Text()
        yield from self._row(self.header, widths)
        yield Text(" " + "─" * (sum(widths) + self.gap * (len(widths) - 1)))
        for row, inside in zip(self.rows, kept, strict=True):
            outside = [cell for cell, same in zip(row, inside, strict=True) if cell is not same]
            name_first = row[0] is not inside[0]
            if name_first:
                yield from _alone(outside.pop(0), 1, screen)
            if any(inside):
                yield from self._row(inside, widths)
            for cell in outside:
                yield from _alone(cell, _INDENT, screen)
        yield Text()

    def _longest_words_that_fit(self, room: int) -> list[int]:
        """Return the longest word that fits each column; a cell with a longer one goes on a line of its own."""
        lengths = [sorted({longest_word(row[c]) for row in self.rows} | {0}) for c in range(len(self.header))]
        floors = [longest_word(cell) for cell in self.header]

        def needed(column: int) -> int:
            return max(lengths[column][-1], floors[column])

        while sum(map(needed, range(len(lengths)))) > room:
            column = max(range(len(lengths)), key=lambda column: lengths[column][-1])
            if lengths[column][-1] == 0:
                break  # the headers alone are too wide
            lengths[column].pop()
        return [column[-1] for column in lengths]

    def _widths(self, rows: Sequence[Sequence[Text]], room: int) -> list[int]:
        """Return the widths of the columns: those of their cells, and less for the widest on a narrow screen."""
        columns = list(zip(*rows, strict=True))
        widths = [max(cell.cell_len for cell in column) for column in columns]
        least = [max(map(longest_word, column)) for column in columns]
        while sum(widths) > room:
            spare = [width if width > few else 0 for width, few in zip(widths, least, strict=True)]
            if not any(spare):
                break
            widths[spare.index(max(spare))] -= 1
        return widths

    def _row(self, cells: Sequence[Text], widths: Sequence[int]) -> Iterator[Text]:
        parts_of = [wrapped(cell, max(width, 1)) for cell, width in zip(cells, widths, strict=True)]
        for number in range(max(map(len, parts_of))):
            line = Text(" ")
            for column, (parts, width) in enumerate(zip(parts_of, widths, strict=True)):
                part = parts[number] if number < len(parts) else Text()
                blanks = " " * (width - part.cell_len)
                line.append(" " * (self.gap if column else 0) + (blanks if self.right[column] else ""))
                line.append_text(part)
                line.append("" if self.right[column] else blanks)
            yield line


def _blank(cell: Text, longest: int) -> Text:
    return cell if longest_word(cell) <= longest else Text()


def _alone(cell: Text, indent: int, screen: int) -> Iterator[Text]:
    for line in wrapped(cell, screen - indent):
        yield Text(" " * indent).append_text(line)
