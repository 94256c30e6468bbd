"""`cnn-tl train`: flags become a recipe, and the run's result becomes a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_tl.cli import options
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.accuracy import advice_after_training, warn_if_no_better
from cnn_tl.cli.terminal.bars import TerminalObserver
from cnn_tl.cli.terminal.larger_backbone import larger_backbone
from cnn_tl.cli.terminal.plan import plan_table
from cnn_tl.cli.terminal.result import show_result
from cnn_tl.core import launch
from cnn_tl.core.choices import HeadKind, Mode
from cnn_tl.core.errors import UsageError

if TYPE_CHECKING:
    from cnn_tl.core.progress import Plan
    from cnn_tl.recipe import ResolvedRecipe
    from cnn_tl.training.result import TrainResult

ModeOption = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        help="freeze: fit a head on the frozen backbone (default). finetune: train everything from pretrained weights. "
        "lp-ft: first the head, then everything. auto: lp-ft, but keep the result only if it beats freeze by more than "
        "chance. scratch: train everything from random weights.",
    ),
]
HeadOption = Annotated[
    HeadKind | None,
    typer.Option(
        "--head",
        help="How the head on frozen features is fitted. auto: lbfgs+ridge, or ridge where there are few images per "
        "class or lbfgs would take minutes.",
        show_default="auto",
    ),
]
Epochs = Annotated[
    int | None, typer.Option(help="Passes over the training images; in mode freeze only for --head adamw.")
]
LearningRate = Annotated[
    str | None,
    typer.Option(
        metavar="RATE|auto", help="Peak learning rate of training or of an adamw head; auto: find one as lr-find does."
    ),
]
Output = Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder.", show_default="runs/DATA-MODE")]


def train(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="Folder of class folders, or of train/ and val/ (and test/).")
    ] = None,
    mode: ModeOption = None,
    recipe: options.Recipe = None,
    set_: options.Changes = None,
    model: options.Backbone = None,
    weights: options.Weights = None,
    head: HeadOption = None,
    epochs: Epochs = None,
    batch_size: options.TrainBatchSize = None,
    lr: LearningRate = None,
    image_size: options.ImageSize = None,
    device: options.TrainDevice = None,
    workers: options.RecipeThreads = None,
    seed: options.Seed = None,
    output: Output = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --output, or the newest run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan without training.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a classifier on a folder of images.

    Flags override --set, which overrides the recipe.
    The run folder holds the resolved recipe, the metrics and the model.
    """
    from cnn_tl import recipe as recipes
    from cnn_tl.training import resume as resuming

    flags: dict[str, object] = {
        "mode": mode, "seed": seed, "data.path": data, "model.name": model, "model.weights": weights,
        "model.image_size": image_size, "head.kind": head, "train.epochs": epochs, "train.batch_size": batch_size,
        "train.lr": _rate(lr), "run.device": device, "run.workers": workers,
    }  # fmt: skip
    source: str | Path | None = recipe
    if resume:
        if dry_run:
            raise UsageError("--resume continues a run that has been planned already; leave out --resume or --dry-run")
        found = resuming.find(output, data, mode, epochs, several=launch.is_distributed())
        output, source = found.output, recipe or found.recipe
        for text in found.notes if launch.prints() else ():
            console.note(text)
    chosen = recipes.load(source, set_ or [], flags)
    for line in recipes.renamed(recipe, set_ or []) if launch.prints() else ():
        console.note(line)
    if idle := resuming.note_without_effect(chosen, {"--epochs": epochs, "--lr": lr}):
        console.note(idle)
    if dry_run:
        _dry_run(chosen, output, as_json=json)
    else:
        _train(chosen, output, resume=resume, as_json=json)


class _PlanObserver(TerminalObserver):
    """Prints the plan before the run begins."""

    def plan(self, plan: Plan) -> None:
        """Print the plan on stderr."""
        console.show(plan_table(plan), console.err)


def _train(recipe: ResolvedRecipe, output: Path | None, *, resume: bool, as_json: bool) -> None:
    from cnn_tl.doctor.twin_groups import find_twin_groups
    from cnn_tl.reporting.after_training import write_report_of
    from cnn_tl.training.run import train as run_training

    result = run_training(
        recipe, output, resume=resume, observer=_PlanObserver(), report=write_report_of, find_twins=find_twin_groups
    )
    if launch.prints():
        _show(recipe, result, as_json=as_json)


def _show(recipe: ResolvedRecipe, result: TrainResult, *, as_json: bool) -> None:
    if as_json:
        console.print_json(result.to_dict())
    else:
        show_result(result, larger_backbone(recipe, result))
    advice = advice_after_training(result.mode, result.baseline)
    warn_if_no_better(result.accuracy, result.interval, result.baseline, advice)


def _dry_run(recipe: ResolvedRecipe, output: Path | None, *, as_json: bool) -> None:
    from cnn_tl.doctor.twin_groups import find_twin_groups
    from cnn_tl.training.run import plan

    made = plan(recipe, output, observer=TerminalObserver() if launch.prints() else None, find_twins=find_twin_groups)
    if not launch.prints():
        return
    if as_json:
        console.print_json(made.to_dict())
    else:
        console.show(plan_table(made))


def _rate(text: str | None) -> float | str | None:
    """Return the text as a number where it is one; the recipe refuses anything else but `auto`."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text
