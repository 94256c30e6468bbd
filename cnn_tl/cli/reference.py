"""The guide `reference`, written from `--help` and the recipe's schema: `python -m cnn_tl.cli.reference`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from cnn_tl import guides, recipe
from cnn_tl.cli.terminal.help import Group, paragraphs, sections, usage
from cnn_tl.core import files
from cnn_tl.core.choices import Mode

FILE = Path(guides.__file__).with_name("reference.md")

_WIDTH = 120
_UNBOUNDED = 2**60
"""A maximum from here on means that there is none."""

_INTRODUCTION = """\
# Reference

Every command with its options, and every key of a recipe.

<!-- Written by `python -m cnn_tl.cli.reference`, from the help texts and the descriptions of the recipe. -->

`cnn-tl COMMAND --help` prints the section of one command, `cnn-tl recipes schema` the keys as a JSON schema.
"""


def text() -> str:
    """Return the whole guide, Markdown."""
    return "\n".join([_INTRODUCTION, *_commands(), *_recipe()]).rstrip() + "\n"


def _commands() -> Iterator[str]:
    from typer.main import get_command

    from cnn_tl.cli.app import app

    yield "## Commands\n"
    root: Any = get_command(app)
    yield from _command(root, root.make_context("cnn-tl", [], resilient_parsing=True))


def _command(command: Any, ctx: Any) -> Iterator[str]:
    """Yield the section of a command, and those of its subcommands."""
    yield f"### {ctx.command_path}\n"
    yield f"`{usage(command, ctx)}`\n"
    for paragraph in paragraphs(command):
        yield _wrapped(_escaped(paragraph))
    tables: dict[str, list[tuple[str, str]]] = {}
    for title, rows in sections(command, ctx):
        kind = {"Arguments": "argument", "Options": "option"}.get(title, "command")
        tables.setdefault(kind, []).extend(row for row in rows if ctx.parent is None or row[0] != "-h, --help")
    for kind, rows in tables.items():
        if rows:
            yield from _table(kind, ["meaning"], rows)
    if isinstance(command, Group):
        for name in command.list_commands(ctx):
            inner: Any = command.get_command(ctx, name)
            yield from _command(inner, inner.make_context(name, [], parent=ctx, resilient_parsing=True))


def _recipe() -> Iterator[str]:
    schema = recipe.json_schema()
    yield "## Recipe keys\n"
    yield _wrapped(
        "In YAML, a key is nested in its section; `--set section.key=value` sets one. A key that a recipe leaves out "
        "takes its default, or without one the value that the [mode](#what-a-mode-fills-in) fills in."
    )
    alone = {name: facts for name, facts in schema["properties"].items() if not _section(facts, schema)}
    yield from _table("key", ["meaning"], [(name, _meaning(facts)) for name, facts in alone.items()])
    for name, facts in schema["properties"].items():
        if section := _section(facts, schema):
            yield f"### {name}\n"
            yield _wrapped(_escaped(section["description"]))
            rows = [(f"{name}.{key}", _meaning(value)) for key, value in section["properties"].items()]
            yield from _table("key", ["meaning"], rows)
    yield from _modes()


def _section(facts: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return the schema of a section; None for a key outside of sections."""
    for part in [facts, *facts.get("anyOf", [])]:
        if "$ref" in part:
            return dict(schema["$defs"][part["$ref"].rpartition("/")[2]])
    return None


def _meaning(facts: dict[str, Any]) -> str:
    default = facts.get("default")
    bracketed = [_values(facts)]
    if default not in (None, []):
        bracketed.append(f"default: {str(default).lower() if isinstance(default, bool) else default}")
    return f"{facts['description']} [{'; '.join(filter(None, bracketed))}]"


def _values(facts: dict[str, Any]) -> str:
    """Return which values a key takes, in words."""
    if "anyOf" in facts:
        return " or ".join(dict.fromkeys(filter(None, map(_values, facts["anyOf"]))))
    if "enum" in facts:
        return ", ".join(facts["enum"])
    if "const" in facts:
        return str(facts["const"])
    words = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text", "array": "list"}
    words |= {"object": "mapping", "null": ""}
    return ", ".join([words[facts["type"]], *_bounds(facts)])


def _bounds(facts: dict[str, Any]) -> Iterator[str]:
    least, most = facts.get("minimum"), facts.get("maximum")
    if most is not None and most >= _UNBOUNDED:
        most = None
    if least is not None and most is not None:
        yield f"{least:,.15g} to {most:,.15g}"
        return
    signs = {"above": facts.get("exclusiveMinimum"), "at least": least}
    signs |= {"below": facts.get("exclusiveMaximum"), "at most": most}
    yield from (f"{words} {bound:,.15g}" for words, bound in signs.items() if bound is not None)


def _modes() -> Iterator[str]:
    """Yield the table of what each mode fills in."""
    modes = get_args(Mode)
    resolved = {mode: recipe.Recipe.model_validate({"mode": mode}).resolve() for mode in modes}
    filled = {mode: yaml.safe_load(recipe.to_yaml(tree)) for mode, tree in resolved.items()}
    rows = []
    for key in recipe.KEYS:
        values = [_at(filled[mode], key) for mode in modes]
        if key.startswith(("model.", "features.", "train.")) and len(set(values)) > 1:
            rows.append((key, *values))
    yield "### What a mode fills in\n"
    yield from _table("key", modes, rows)


def _at(tree: Any, key: str) -> str:
    """Return the value of a dotted key as YAML writes it; nothing where it has none."""
    for name in key.split("."):
        tree = (tree or {}).get(name)
    return "" if tree is None else str(tree).lower() if isinstance(tree, bool) else f"{tree}"


def _table(first: str, others: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a table whose first column is code."""
    lines = [f"| {' | '.join([first, *others])} |", f"|---{'|---' * len(others)}|"]
    for name, *cells in rows:
        code = name.replace("|", "\\|")
        lines.append(f"| `{code}` | {' | '.join(map(_escaped, cells))} |")
    yield "\n".join(lines) + "\n"


def _escaped(words: str) -> str:
    """Escape what Markdown would interpret."""
    return re.sub(r"[\\*|`<]|\b_|_\b", r"\\\g<0>", words)


def _wrapped(paragraph: str) -> str:
    return "\n".join(textwrap.wrap(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False)) + "\n"


if __name__ == "__main__":
    files.write_text(FILE, text())
