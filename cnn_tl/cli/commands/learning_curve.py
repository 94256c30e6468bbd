"""`cnn-tl learning-curve`: what more images would buy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnn_tl.cli import completion, options
from cnn_tl.cli.subject import subject_of
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import printable

Source = Annotated[
    Path,
    typer.Argument(
        metavar="DATA|RUN",
        help="Folder of class folders, or of train/, val/, test/; or a run, whose data are then used.",
        autocompletion=completion.runs,
    ),
]
PlotFile = Annotated[Path | None, typer.Option("--output", metavar="PNG", help="Also draw the curve into this file.")]


def learning_curve(
    source: Source,
    output: PlotFile = None,
    recipe: options.Recipe = None,
    set_: options.Changes = None,
    model: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    device: options.TrainDevice = None,
    workers: options.RecipeThreads = None,
    seed: options.Seed = None,
    json: Annotated[bool, typer.Option("--json", help="Print the curve as JSON.")] = False,
) -> None:
    """Say what more images would buy: accuracy by the number of images, measured, and foretold for 2 and 4 times.

    Heads are fitted to the features of the frozen backbone at eight numbers of images, ten times each, and judged on
    images that they have not seen: folds of train and val together, test is left alone. The extrapolation averages
    several shapes of curves, and is checked by foretelling the whole from the first half. No image is changed.
    """
    from cnn_tl.advising.learning_curve.report import learning_curve as run_learning_curve
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.cli.terminal.learning_curve import show_learning_curve
    from cnn_tl.inference.safe_output import require_plot_place

    flags: dict[str, object] = {
        "seed": seed, "model.name": model, "model.weights": weights, "model.image_size": image_size,
        "run.device": device, "run.workers": workers,
    }  # fmt: skip
    subject = subject_of(source, recipe, set_ or [], flags)
    if output is not None:
        require_plot_place(output)
    found = run_learning_curve(subject, printable(source), TerminalObserver())
    if output is not None:
        from cnn_tl.plots.learning_curve import plot_learning_curve

        plot_learning_curve(output, found.to_dict())
    if json:
        console.print_json(found.to_dict())
    else:
        show_learning_curve(found)
    for line in found.notes:
        console.note(line)
    if found.saved is not None:
        console.note(f"the run's report shows it from now on: cnn-tl report {printable(source)}")
    if output is not None:
        console.note(f"the plot is in {printable(output)}")
