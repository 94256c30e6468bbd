"""The only room that knows rich: results go to stdout, everything else to stderr.

No line is broken inside a word. Texts are broken between words where the screen is a terminal, and stay whole lines for
pipes and files; a word longer than the screen, such as a path, stays whole too, on a line of its own, so that it can be
copied.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from cnn_tl.cli.terminal.tables import Grid, wrapped
from cnn_tl.core.errors import ResourceError

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def breaks_lines(screen: Console) -> bool:
    """Return whether texts are broken to the width of this screen: not where a program or a file takes them.

    `COLUMNS` is no sign of a person: readline leaves it to whatever a program starts.
    """
    return screen.is_terminal


def put(text: Text, screen: Console) -> None:
    """Print a text, broken between its words where lines are broken at all."""
    for line in wrapped(text, screen.width) if breaks_lines(screen) else [text]:
        screen.print(line)


def put_groups(groups: Iterable[str], screen: Console) -> None:
    """Print groups of words two blanks apart; a line that is too long is broken between groups, not inside them."""
    lines: list[str] = []
    for group in groups:
        if lines and (not breaks_lines(screen) or cell_len(lines[-1]) + 2 + cell_len(group) <= screen.width):
            lines[-1] += f"  {group}"
        else:
            lines.append(f"  {group}" if lines else group)
    for line in lines:
        put(Text(line), screen)


def note(text: str) -> None:
    """Print a remark on stderr, as it is: no markup is read in it."""
    put(Text(text, style="dim"), err)


def warn(text: str) -> None:
    """Print something the user should look at, on stderr."""
    put(Text.assemble(("warning: ", "yellow"), text), err)


def fail(text: str) -> None:
    """Print the one line of an error, on stderr."""
    put(Text.assemble(("error: ", "bold red"), text), err)


def say(text: str = "") -> None:
    """Print a line of the result on stdout; no markup is read in it."""
    put(Text(text), out)


def say_command(words: Sequence[str]) -> None:
    """Print a command to copy; its words are quoted already."""
    for line in command_lines(words):
        out.print(Text(line))


def command_lines(words: Sequence[str]) -> list[str]:
    """Return a command on as many lines as the screen asks for: it goes on in the shell's way, after a backslash."""
    lines = [""]
    for word in words:
        fits = not breaks_lines(out) or cell_len(lines[-1]) + 1 + cell_len(word) + len(" \\") <= out.width
        if lines[-1] and not fits:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else f"  {word}"
    return lines


def broken_comment(line: str) -> list[str]:
    """Return a comment of YAML on as many lines as the screen asks for, each a comment."""
    if not breaks_lines(out):
        return [line]
    return [f"# {part.plain}" for part in wrapped(Text(line.removeprefix("# ")), out.width - 2)]


def show(renderable: RenderableType, screen: Console = out) -> None:
    """Print a table or a group of them."""
    screen.print(renderable)


def show_paged(renderable: RenderableType) -> None:
    """Print a long text: page by page on a terminal, else as it is, without colours."""
    if out.is_terminal and sys.stdin.isatty() and (command := _pager()):
        with out.capture() as captured:
            out.print(renderable, soft_wrap=False, crop=False)
        _page(captured.get(), command)
    else:
        with out.capture() as captured:
            out.print(renderable, soft_wrap=False, crop=False)
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _pager() -> list[str]:
    """Return the command that shows a text page by page: `PAGER`, else less; nothing where there is neither."""
    if (wanted := os.environ.get("PAGER")) is not None:
        return shlex.split(wanted)
    less = shutil.which("less")
    return [less] if less else []


def _page(text: str, command: Sequence[str]) -> None:
    """Hand a text to a pager and wait for it.

    Raises:
        ResourceError: the pager cannot be started.
    """
    environment = {"LESS": "-FRX", "LESSCHARSET": "utf-8"} | os.environ  # end if it fits, colours, leave it there
    try:
        pager = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"the pager {command[0]} cannot be started ({error.strerror}); unset PAGER") from error
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pager
    try:
        pager.communicate(text)
    finally:
        signal.signal(signal.SIGINT, before)


def print_json(value: object) -> None:
    """Print one JSON value on stdout, for machines."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, dense: bool = False) -> Grid:
    """Build a plain table; a column whose name ends in `>` is aligned to the right; `dense` saves blanks."""
    return Grid(columns, rows, dense=dense)


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
