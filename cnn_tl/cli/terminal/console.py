"""Print to the two streams: results to stdout, everything else to stderr.

On a terminal, lines break between words, never inside one; a word longer than the screen, such as a path, goes on a
line of its own, so that it can be copied. Lines to pipes and files are not broken.
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
    """Return whether lines are broken to the width of this screen: only on a terminal.

    The variable `COLUMNS` does not prove that there is one: readline sets it for child processes.
    """
    return screen.is_terminal


def put(text: Text, screen: Console) -> None:
    """Print a text, with line breaks between words if the screen wants them."""
    for line in wrapped(text, screen.width) if breaks_lines(screen) else [text]:
        screen.print(line)


def put_groups(groups: Iterable[str], screen: Console) -> None:
    """Print groups of words two blanks apart; long lines are broken between groups only."""
    lines: list[str] = []
    for group in groups:
        if lines and (not breaks_lines(screen) or cell_len(lines[-1]) + 2 + cell_len(group) <= screen.width):
            lines[-1] += f"  {group}"
        else:
            lines.append(f"  {group}" if lines else group)
    for line in lines:
        put(Text(line), screen)


def note(text: str) -> None:
    """Print a note on stderr; markup in it is not interpreted."""
    put(Text(text, style="dim"), err)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    put(Text.assemble(("warning: ", "yellow"), text), err)


def fail(text: str) -> None:
    """Print the one line of an error, on stderr."""
    put(Text.assemble(("error: ", "bold red"), text), err)


def say(text: str = "") -> None:
    """Print a line of the result on stdout; markup in it is not interpreted."""
    put(Text(text), out)


def say_command(words: Sequence[str]) -> None:
    """Print a command to copy.

    Args:
        words: quoted already.
    """
    for line in command_lines(words):
        out.print(Text(line))


def command_lines(words: Sequence[str]) -> list[str]:
    """Return a command on as many lines as needed, with a backslash at each break, as the shell wants it."""
    lines = [""]
    for word in words:
        fits = not breaks_lines(out) or cell_len(lines[-1]) + 1 + cell_len(word) + len(" \\") <= out.width
        if lines[-1] and not fits:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else f"  {word}"
    return lines


def broken_comment(line: str) -> list[str]:
    """Return a YAML comment on as many lines as needed, each a comment."""
    if not breaks_lines(out):
        return [line]
    return [f"# {part.plain}" for part in wrapped(Text(line.removeprefix("# ")), out.width - 2)]


def show(renderable: RenderableType, screen: Console = out) -> None:
    """Print a table or a group of them."""
    screen.print(renderable)


def show_paged(renderable: RenderableType) -> None:
    """Print a long text: page by page on a terminal, otherwise without colours."""
    with out.capture() as captured:
        out.print(renderable, soft_wrap=False, crop=False)
    if out.is_terminal and sys.stdin.isatty() and (command := _pager()):
        _page(captured.get(), command)
    else:
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _pager() -> list[str]:
    """Return the command of the pager: `PAGER`, else less; empty if there is neither."""
    if (wanted := os.environ.get("PAGER")) is not None:
        return shlex.split(wanted)
    less = shutil.which("less")
    return [less] if less else []


def _page(text: str, command: Sequence[str]) -> None:
    """Show a text in a pager and wait for it.

    Raises:
        ResourceError: the pager cannot be started.
    """
    # less: quit if the text fits on a screen (F), keep colours (R), leave the text on the screen (X)
    environment = {"LESS": "-FRX", "LESSCHARSET": "utf-8"} | os.environ
    try:
        pager = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, encoding="utf-8")
    except OSError as error:
        raise ResourceError(f"the pager {command[0]} cannot be started ({error.strerror}); unset PAGER") from error
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pager handles Ctrl-C
    try:
        pager.communicate(text)
    finally:
        signal.signal(signal.SIGINT, before)


def print_json(value: object) -> None:
    """Print one JSON value on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, dense: bool = False) -> Grid:
    """Build a table; see `Grid` for the arguments."""
    return Grid(columns, rows, dense=dense)


def width() -> int:
    """Return the width of stdout in columns; 80 where it is not a terminal."""
    return out.width


def times(sides: Iterable[object]) -> str:
    """Write a shape as `64x112x112`."""
    return "x".join(str(side) for side in sides)


def square(pair: Sequence[float]) -> str:
    """Write rows and columns as one number if they are equal, else as `1x7`."""
    rows, columns = (f"{side:.6g}" for side in pair)
    return rows if rows == columns else f"{rows}x{columns}"
