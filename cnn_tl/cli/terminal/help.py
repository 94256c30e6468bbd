"""`--help` pages in two columns that never cut a word, however narrow the screen.

typer's own pages cut names, choices and defaults in narrow columns, and write `<bool>` beside a switch.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from cnn_tl.cli.examples import EXAMPLES
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.tables import wrapped

_LEFT = 26
"""Width of the left column; the help of a longer name starts on the next line."""

_KINDS = {int: "N", float: "X", str: "TEXT"}
"""Placeholder for the value of an option without a metavar."""


class Command(TyperCommand):
    """A command whose help page fits narrow screens."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page."""
        _print_page(self, ctx)


class Group(TyperGroup):
    """A group of commands whose help page fits narrow screens."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page."""
        _print_page(self, ctx)


def _print_page(command: Command | Group, ctx: Any) -> None:
    console.show(Text("\n").join(_page(command, ctx)))


def _page(command: Command | Group, ctx: Any) -> Iterator[Text]:
    """Yield the lines of a page."""
    yield from wrapped(Text.assemble(("Usage: ", "bold"), usage(command, ctx)), console.width())
    for paragraph in paragraphs(command):
        yield Text()
        yield from wrapped(Text(paragraph), console.width())
    for title, rows in sections(command, ctx):
        yield from _section(title, rows)
    if examples := EXAMPLES.get(" ".join(ctx.command_path.split()[1:])):
        yield from _heading("Examples")
        for example in examples:
            yield from map(Text, console.command_lines(example.split(" ")))


def usage(command: Command | Group, ctx: Any) -> str:
    """Return such as `cnn-tl predict [OPTIONS] RUN [IMAGES]...`."""
    words = [ctx.command_path, *command.collect_usage_pieces(ctx)]
    return " ".join(words).replace("{", "").replace("}", "")


def paragraphs(command: Command | Group) -> list[str]:
    """Return the description of a command, each paragraph on one line."""
    return [" ".join(text.split()) for text in inspect.cleandoc(command.help or "").split("\n\n")]


def sections(command: Command | Group, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield sections for arguments, commands and options: a title, and pairs of a name and its help."""
    parameters: list[Any] = [p for p in command.get_params(ctx) if not getattr(p, "hidden", False)]
    yield "Arguments", [(p.display_name_raw, _help(p, ctx)) for p in parameters if p.param_type_name == "argument"]
    if isinstance(command, Group):
        yield from _commands(command, ctx)
    yield "Options", [(_names(p), _help(p, ctx)) for p in parameters if p.param_type_name == "option"]


def _section(title: str, rows: Sequence[tuple[str, str]]) -> Iterator[Text]:
    """Yield names on the left and their help on the right."""
    if not rows:
        return
    yield from _heading(title)
    left = min(_LEFT, max(len(name) for name, _ in rows))
    for name, text in rows:
        lines = wrapped(Text(text), max(20, console.width() - left - 4))
        if len(name) > left:
            yield Text(f"  {name}", style="cyan")
            name = ""
        for line in lines:
            yield Text.assemble((f"  {name.ljust(left)}  ", "cyan"), line)
            name = ""


def _heading(text: str) -> Iterator[Text]:
    yield Text()
    yield Text(f"{text}:", style="bold")


def _names(option: Any) -> str:
    """Return such as `-0, --null`, `--method METHOD` or `--faithfulness, --no-faithfulness`."""
    names = ", ".join(sorted([*option.opts, *option.secondary_opts], key=lambda name: name.startswith("--")))
    return names if option.is_flag else f"{names} {_placeholder(option)}"


def _placeholder(option: Any) -> str:
    if option.metavar:
        return str(option.metavar)
    described = option.type_descriptor
    if described.is_choice:
        return str(option.opts[0]).removeprefix("--").upper()
    if described.is_path:
        return "FILE"
    return _KINDS.get(described.annotation, "N" if described.is_list else "TEXT")


def _help(parameter: Any, ctx: Any) -> str:
    """Return the help of a parameter, its choices, bounds and default."""
    words = [parameter.help or ""]
    described = parameter.type_descriptor
    if described.is_choice:
        words.append(f"One of {', '.join(map(str, described.choices))}.")
    facts = [*_bounds(parameter), *_default(parameter, ctx)]
    return " ".join([*words, f"[{'; '.join(facts)}]" if facts else ""]).strip()


def _bounds(parameter: Any) -> Iterator[str]:
    least, most = parameter.min, parameter.max
    if least is not None and most is not None:
        yield f"{least:,} to {most:,.7g}"
    elif least is not None:
        yield f"at least {least:,}"


def _default(parameter: Any, ctx: Any) -> Iterator[str]:
    if isinstance(parameter.show_default, str):
        yield f"default: {parameter.show_default}"
        return
    value = parameter.get_default(ctx, call=False)
    if parameter.required or not parameter.show_default or value is None:
        return
    if isinstance(value, bool):
        if parameter.secondary_opts:
            yield f"default: {(parameter.opts if value else parameter.secondary_opts)[0]}"
    else:
        yield f"default: {value}"


def _commands(group: Group, ctx: Any) -> Iterable[tuple[str, list[tuple[str, str]]]]:
    """Return heading -> the commands of a group under it, with their help."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for name in group.list_commands(ctx):
        command: Any = group.get_command(ctx, name)
        first = " ".join((command.help or "").split("\n\n")[0].split())
        title = getattr(command, "rich_help_panel", None)
        sections.setdefault(title if isinstance(title, str) else "Commands", []).append((name, first))
    return sections.items()
