"""`cnn-tl lr-find`: a learning-rate range test with a plot and suggestions."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli import options
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.bars import TerminalObserver
from cnn_tl.core.errors import printable

if TYPE_CHECKING:
    from cnn_tl.training.loop.lr_range_test import RangeTest


def lr_find(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Folder of class folders, or of train/ and val/.")],
    mode: Annotated[
        Literal["finetune", "scratch"] | None,
        typer.Option(help="Mode to find a learning rate for.", show_default="the recipe's, or finetune"),
    ] = None,
    recipe: options.Recipe = None,
    set_: options.Changes = None,
    model: options.Backbone = None,
    weights: options.Weights = None,
    batch_size: options.TrainBatchSize = None,
    image_size: options.ImageSize = None,
    device: options.TrainDevice = None,
    workers: options.RecipeThreads = None,
    seed: options.Seed = None,
    output: Annotated[Path, typer.Option(metavar="PNG", help="File for the plot.")] = Path("lr-find.png"),
    json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Find a learning rate by a range test: about sixty steps at rising rates, on a model that is then discarded.

    Two rates are suggested: where the loss falls fastest (steepest), which train --lr auto uses too, and the middle of
    its longest fall (valley).
    """
    from cnn_tl import recipe as recipes
    from cnn_tl.doctor.twin_groups import find_twin_groups
    from cnn_tl.inference.safe_output import require_plot_place
    from cnn_tl.plots.lr_find import plot_lr_find
    from cnn_tl.training.run import find_lr

    flags: dict[str, object] = {
        "mode": mode, "seed": seed, "data.path": data, "model.name": model, "model.weights": weights,
        "model.image_size": image_size, "train.batch_size": batch_size, "run.device": device,
        "run.workers": workers,
    }  # fmt: skip
    chosen = recipes.load(recipe, [*([] if recipe else ["mode=finetune"]), *(set_ or [])], flags)
    for line in recipes.renamed(recipe, set_ or []):
        console.note(line)
    require_plot_place(output)
    found = find_lr(chosen, observer=TerminalObserver(), find_twins=find_twin_groups)
    plot_lr_find(output, found.rates, found.losses, found.smoothed, found.suggestions, found.default)
    if json:
        console.print_json(asdict(found) | {"suggestion": found.suggestion})
        return
    for line in _lines(found, chosen.mode):
        console.say(line)
    console.say(f"the plot is in {printable(output)}")
    if found.suggestion is None:
        return
    console.say("next:")
    given: dict[str, object] = {
        "--recipe": recipe, "--model": model, "--weights": weights, "--image-size": image_size,
        "--batch-size": batch_size, "--device": device, "--workers": workers, "--seed": seed,
    }  # fmt: skip
    words = ["cnn-tl", "train", data, "--mode", chosen.mode]
    words += [word for flag, value in given.items() if value is not None for word in (flag, str(value))]
    words += [word for change in set_ or () for word in ("--set", change)]
    console.say_command([printable(shlex.quote(word)) for word in (*words, "--lr", f"{found.suggestion:.2g}")])


def _lines(found: RangeTest, mode: str) -> list[str]:
    """Return a line for each suggested rate, the default of the mode first, or why there is none."""
    if found.suggestion is None:
        return [found.reason]
    lines = [f"learning rate {found.suggestion:.2g}: {found.reason or f'{found.default}, the default of mode {mode}'}"]
    others = {name: rate for name, rate in found.suggestions.items() if name != found.default}
    return lines + [f"learning rate {rate:.2g}: {name}" for name, rate in others.items()]
