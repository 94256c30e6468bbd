"""`cnn-tl train`: flags become a recipe, the recipe becomes a run, the run becomes a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli import options
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.accuracy import advice_after_training, warn_if_no_better
from cnn_tl.cli.terminal.bars import TerminalObserver
from cnn_tl.cli.terminal.plan import plan_table
from cnn_tl.cli.terminal.result import show_result
from cnn_tl.core import launch
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.formatting import counted

if TYPE_CHECKING:
    from cnn_tl.core.progress import Plan
    from cnn_tl.recipe import ResolvedRecipe
    from cnn_tl.training.run_folder import RunFolder

Mode = Literal["freeze", "finetune", "lp-ft", "auto", "scratch"]
Head = Literal["auto", "lbfgs", "ridge", "adamw", "knn", "prototype"]


def train(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Folder of class folders, or of train/ and val/ (and test/).")
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="freeze: fit a head on the frozen backbone (default). finetune: train everything from "
                     "pretrained weights. lp-ft: first the head, then everything. auto: lp-ft, kept only if it gains "
                     "more than chance over freeze. scratch: train everything from random weights."),
    ] = None,
    recipe: options.Recipe = None,
    set_: options.Changes = None,
    model: options.Backbone = None,
    weights: options.Weights = None,
    head: Annotated[
        Head | None,
        typer.Option(help="How a head on frozen features is fitted (auto: lbfgs, or ridge for few images of each "
                     "class or where lbfgs would take minutes).", show_default="auto"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training images (not in mode freeze, but for --head adamw).")
    ] = None,
    batch_size: options.StepSize = None,
    lr: Annotated[
        str | None,
        typer.Option(metavar="RATE|auto", help="Peak learning rate of a loop (auto: as lr-find) or an adamw head."),
    ] = None,
    image_size: options.ImageSize = None,
    device: options.WhereToCompute = None,
    workers: options.RecipeReaders = None,
    seed: options.Seed = None,
    output: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run folder.", show_default="runs/DATA-MODE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output (or the newest).")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:  # fmt: skip
    """Train a classifier on a folder of images.

    Flags override --set, which overrides the recipe.
    The run folder holds the resolved recipe, the metrics and the model.
    """
    from cnn_tl import recipe as recipes
    from cnn_tl.recipe.resolved import FreezeRecipe
    from cnn_tl.training import run_folder, run_index

    flags: dict[str, object] = {
        "mode": mode, "seed": seed, "data.path": data, "model.name": model, "model.weights": weights,
        "model.image_size": image_size, "head.kind": head, "train.epochs": epochs, "train.batch_size": batch_size,
        "train.lr": _rate(lr), "run.device": device, "run.workers": workers,
    }  # fmt: skip
    source: str | Path | None = recipe
    if resume:
        if dry_run:
            raise UsageError("--resume goes on with a run that is planned already; leave out either it or --dry-run")
        if output is None:
            chosen_run = run_index.to_resume(data, mode, epochs, several=launch.is_distributed())
            output = chosen_run.path
            if launch.prints():
                for text in chosen_run.notes:
                    console.note(text)
        run = run_folder.RunFolder(output)
        if run.never_began:
            source = recipe or _what_never_began(run, data, mode)
        else:
            run.require_run()
            _refuse_what_a_run_keeps(run, mode, epochs)
            source = recipe or run.recipe
    chosen = recipes.load(source, set_ or [], flags)
    if launch.prints():
        for line in recipes.renamed(recipe, set_ or []):
            console.note(line)
    idle = [flag for flag, value in (("--epochs", epochs), ("--lr", lr)) if value is not None]
    if idle and isinstance(chosen, FreezeRecipe) and chosen.head.kind != "adamw":
        have = "has" if len(idle) == 1 else "have"
        console.note(f"{' and '.join(idle)} {have} no effect: the head ({chosen.head.kind}) is fitted, not trained")
    if dry_run:
        _dry_run(chosen, output, as_json=json)
        return

    class Observer(TerminalObserver):
        def plan(self, plan: Plan) -> None:
            console.show(plan_table(plan), console.err)

    from cnn_tl.training.run import train as run_training

    result = run_training(chosen, output, resume=resume, observer=Observer())
    if not launch.prints():
        return
    if json:
        console.print_json(result.to_dict())
    else:
        show_result(result)
    advice = advice_after_training(result.mode, result.baseline)
    warn_if_no_better(result.accuracy, result.interval, result.baseline, advice)


def _what_never_began(run: RunFolder, data: str | None, mode: Mode | None) -> Path | None:
    """Return what a run was told that was stopped before it wrote its recipe; None: the command line tells all of it.

    Raises:
        UsageError: neither does.
    """
    from cnn_tl import recipe as recipes

    is_told = run.begun.is_file() and mode in (None, recipes.load(run.begun).mode)
    if not is_told and data is None:
        raise UsageError(
            f"{printable(run.path)} was stopped before it wrote its recipe; give the whole command again: "
            f"cnn-tl train DATA --output {printable(run.path)}"
        )
    if launch.prints():
        console.note(f"{printable(run.path)} was stopped before it began; it starts from the beginning")
    return run.begun if is_told else None


def _refuse_what_a_run_keeps(run: RunFolder, mode: Mode | None, epochs: int | None) -> None:
    """Refuse flags that say of a run what it cannot become, before they contradict its recipe in other words.

    Raises:
        UsageError: another mode, or epochs where the run counts steps.
    """
    from cnn_tl.recipe.resolved import LoopRecipe

    own = run.own_recipe()
    if mode not in (None, own.mode):
        raise UsageError(
            f"{printable(run.path)} was begun in mode {own.mode} and stays in it; leave out --mode {mode}, "
            "or start anew with another --output"
        )
    if epochs is not None and isinstance(own, LoopRecipe) and own.train.length.unit == "steps":
        raise UsageError(
            f"{printable(run.path)} is to last {counted(own.train.length.count, 'step')}, not epochs; "
            "leave out --epochs, or make it longer with --set train.steps=MORE"
        )


def _rate(text: str | None) -> float | str | None:
    """Return a number where the text is one; the recipe refuses what is neither that nor `auto`."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _dry_run(recipe: ResolvedRecipe, output: Path | None, *, as_json: bool) -> None:
    from cnn_tl.training.run import plan

    made = plan(recipe, output, observer=TerminalObserver() if launch.prints() else None)
    if not launch.prints():
        return
    if as_json:
        console.print_json(made.to_dict())
    else:
        console.show(plan_table(made))
