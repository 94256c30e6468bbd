"""The only room that knows rich: results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def note(text: str) -> None:
    """Print a remark on stderr, as it is: no markup is read in it."""
    err.print(Text(text, style="dim"))


def warn(text: str) -> None:
    """Print something the user should look at, on stderr."""
    err.print(Text.assemble(("warning: ", "yellow"), text))


def fail(text: str) -> None:
    """Print the one line of an error, on stderr."""
    err.print(Text.assemble(("error: ", "bold red"), text))


def say(text: str = "") -> None:
    """Print a line of the result on stdout; no markup is read in it."""
    out.print(Text(text))


def show(renderable: RenderableType, screen: Console = out) -> None:
    """Print a table or a group of them; off a terminal without the blanks that fill its lines up."""
    if screen.is_terminal:
        screen.print(renderable)
        return
    with screen.capture() as captured:
        screen.print(renderable)
    lines = (line.rstrip() for line in captured.get().splitlines())
    screen.file.write("\n".join(lines) + "\n")


def print_json(value: object) -> None:
    """Print one JSON value on stdout, for machines."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None, dense: bool = False
) -> Table:
    """Build a plain table; a column whose name ends in `>` is aligned to the right; `dense` saves blanks."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    made.collapse_padding = dense
    for name in columns:
        made.add_column(name.removesuffix(">"), justify="right" if name.endswith(">") else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def width() -> int:
    """Return how many columns there are to print on; off a terminal 80."""
    return out.width


def times(sides: Iterable[object]) -> str:
    """Write a shape as `64x112x112`."""
    return "x".join(str(side) for side in sides)


def square(pair: Sequence[float]) -> str:
    """Write what has rows and columns as one number where they are equal, and as `1x7` where not."""
    rows, columns = (f"{side:.6g}" for side in pair)
    return rows if rows == columns else f"{rows}x{columns}"
