"""Check that printed words stay whole on screens of several widths."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable

from rich.console import Console

WIDTHS = (60, 80, 100, 120)
ENDLESS = 10_000


def faults_of(show: Callable[[Console], None], said: str = "", widths: tuple[int, ...] = WIDTHS) -> list[str]:
    """Print something on screens of several widths, and return what is wrong with it.

    The words are to be those of an endless line, and no line longer than the screen unless it is one word, such as a
    path, that has the line for itself.
    """

    def printed(width: int) -> list[str]:
        screen = Console(file=io.StringIO(), width=width, highlight=False, soft_wrap=True)
        show(screen)
        return screen.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]

    whole = sorted(_words(printed(ENDLESS)))
    faults = []
    for width in widths:
        lines = printed(width)
        if sorted(_words(lines)) != whole:
            cut = set(_words(lines)) ^ set(whole)
            faults.append(f"{said}at {width} columns words are cut: {sorted(cut)}")
        faults += [
            f"{said}at {width} columns a line is too long: {line!r}"
            for line in lines
            if len(line) > width and not _is_one_word(line)
        ]
    return faults


def _is_one_word(line: str) -> bool:
    """Say whether a line holds one word for a shell, or one between blanks."""
    line = line.removesuffix("\\").strip()
    try:
        return len(shlex.split(line)) == 1 or " " not in line
    except ValueError:
        return " " not in line


def _words(lines: list[str]) -> list[str]:
    """Return the words of lines without rules, and without the signs that a command goes on."""
    return [word for line in lines for word in line.split() if word.strip("─") and word != "\\"]
