"""`cnn-tl recipes`: list, show, copy and check recipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cnn_tl.cli import completion
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.help import Command, Group
from cnn_tl.core.errors import RecipeError, ResourceError, UsageError, printable

app = typer.Typer(cls=Group, help="List, show, copy and check recipes.", no_args_is_help=True)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name of a shipped recipe, from cnn-tl recipes list.",
        autocompletion=completion.recipes,
    ),
]


@app.command("list", cls=Command)
def list_recipes(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the shipped recipes."""
    from cnn_tl import recipe

    rows = [(name, *_header(recipe.text(name))) for name in recipe.names()]
    if as_json:
        console.print_json([{"name": name, "command": command, "what": what} for name, command, what in rows])
    else:
        console.show(console.table(["recipe", "what"], [(name, what) for name, _, what in rows]))


@app.command(cls=Command)
def show(name: Name) -> None:
    """Print a shipped recipe."""
    from cnn_tl import recipe

    for line in recipe.text(name).rstrip().splitlines():
        for part in console.broken_comment(line) if line.startswith("# ") else [line]:
            console.out.print(Text(part))


@app.command(cls=Command)
def copy(
    name: Name,
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="File to write; by default NAME.yaml.")] = None,
) -> None:
    """Copy a shipped recipe to a file."""
    from cnn_tl import recipe
    from cnn_tl.core import files

    text = recipe.text(name)
    target = file or Path(f"{name}.yaml")
    if os.path.lexists(target):
        raise ResourceError(f"{printable(target)} exists; name another file")
    files.write_text(target, text)
    console.say(f"wrote {printable(target)}; edit it, then: cnn-tl train DATA --recipe {printable(target)}")


@app.command(cls=Command)
def validate(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Recipe files, or shipped names.", autocompletion=completion.recipes),
    ],
) -> None:
    """Check recipes: one line per fault, or one that says ok; exit code 2 if there is a fault."""
    wrong = False
    for source in recipes:
        faults = _faults(source)
        wrong = wrong or bool(faults)
        for line in faults or [f"{printable(source)}: ok, mode {_mode(source)}"]:
            console.say(line)
    if wrong:
        raise typer.Exit(RecipeError.exit_code)


def _mode(source: str) -> str:
    from cnn_tl import recipe

    for line in recipe.renamed(source):
        console.note(line)
    return recipe.load(source).mode


def _faults(source: str) -> list[str]:
    """Return all faults that do not depend on the images or the machine; only rare optimizers need torch."""
    from cnn_tl import recipe
    from cnn_tl.recipe.resolved import LoopRecipe

    if found := recipe.faults(source):
        return found
    read = recipe.load(source)
    if isinstance(read, LoopRecipe) and read.train.optimizer not in ("adamw", "sgd"):
        from cnn_tl.core.imports import require_torch

        require_torch(f"the optimizer {read.train.optimizer}")
        from cnn_tl.training.step.optimizer import refuse_optimizer

        try:
            refuse_optimizer(read.train)
        except UsageError as error:
            return [f"{printable(source)}: {error}"]
    return []


@app.command(cls=Command)
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from cnn_tl import recipe

    console.print_json(recipe.json_schema())


def _header(text: str) -> tuple[str, str]:
    """Return the first two comment lines of a shipped recipe: the command that runs it, and what it does."""
    command, what = (line.removeprefix("# ") for line in text.splitlines()[:2])
    return command, what
