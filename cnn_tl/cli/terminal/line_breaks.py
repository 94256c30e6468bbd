"""Breaking a text into lines between its words, never inside one."""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.text import Text

_WORD = re.compile(r"\s*\S+")


def broken(text: Text, width: int) -> list[Text]:
    """Return lines of at most so many columns; a word that is longer stays whole, on a line of its own.

    rich's `Text.wrap` cuts such a word, or breaks nothing at all.
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
    """Return how many columns the longest word takes."""
    return max(map(cell_len, text.plain.split()), default=0)
