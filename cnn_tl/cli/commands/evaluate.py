"""`cnn-tl evaluate`: how good a trained model is on labelled images, and how well its answers hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli.options import AnyModel, AtOnce, Readers, WhereModelRuns
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.accuracy import ADVICE_AFTER_EVALUATION, show_classes, warn_if_no_better
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.formatting import percent

if TYPE_CHECKING:
    from cnn_tl.cli.terminal.tables import Grid
    from cnn_tl.evaluating.evaluate import Evaluation

_ALL_ARE = "--all-classes prints all, --json too"
_MOST_CONFUSED = 5


def evaluate(
    model: AnyModel,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of class folders, or of train/, val/, test/.")],
    part: Annotated[
        Literal["test", "val", "train"] | None,
        typer.Option(help="The part of DATA that is meant.", show_default="test if there is one, else val"),
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also shift, scale, rotate, blur and relight the images.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images, of each class its share.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Where the plot of --robustness goes.", show_default="robustness.png"),
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="List every class, however many there are.")
    ] = False,
    batch_size: AtOnce = 32,
    workers: Readers = None,
    device: WhereModelRuns = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Evaluate a trained model on labelled images; with --robustness on changed ones too.

    Images that the model was trained on are left out, wherever they lie now, if the run folder is at hand.
    """
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.evaluating.evaluate import evaluate as run_evaluation
    from cnn_tl.inference.safe_output import require_plot_place

    if output is not None and not robustness:
        raise UsageError("--output is where the plot of --robustness goes; give that too, or leave it out")
    plot = output or Path("robustness.png")
    if robustness:
        require_plot_place(plot)
    found = run_evaluation(
        model, data, part=part, robustness=robustness, limit=limit, batch_size=batch_size, workers=workers,
        device=device, observer=TerminalObserver(),
    )  # fmt: skip
    if robustness:
        _plot(found, plot)
    if json:
        console.print_json(found.to_dict())
    else:
        show_evaluation(found, all_classes=all_classes)
    warn_if_no_better(found.accuracy, found.interval, found.baseline, ADVICE_AFTER_EVALUATION)
    for note in found.notes:
        console.note(note)
    for file, reason in found.unreadable:
        console.warn(f"{file} could not be read and counts nowhere: {reason}")
    if robustness:
        console.note(f"the plot is in {printable(plot)}")


def show_evaluation(found: Evaluation, *, all_classes: bool = False) -> None:
    """Print how good the model is on these images, class by class, and what it confuses."""
    low, high = found.interval
    console.show(
        console.table(
            ["evaluation", ">", ""],
            [
                ["images", f"{found.images:,}", _images(found)],
                ["accuracy", percent(found.accuracy), f"{found.correct:,} right"],
                ["95% interval", f"{percent(low)} - {percent(high)}", "Wilson; more images make it narrower"],
                ["majority-class baseline", percent(found.baseline), _baseline(found)],
                ["balanced accuracy", percent(found.balanced_accuracy), "each class weighs the same"],
                ["calibration error", percent(found.calibration_error), "how far probabilities miss accuracies"],
                ["log loss", f"{found.log_loss:.3f}", "nats; 0 would be certain and right"],
            ],
            dense=True,
        )
    )
    counts = {
        name: (count["right"], count["images"], f"{count['right']} / {count['answered']}")
        for name, count in found.per_class.items()
    }
    show_classes(["right / images>", "right / answers>"], counts, _ALL_ARE, every=all_classes)
    if confused := found.confused():
        rows = [[printable(true), printable(answer), count] for count, true, answer in confused[:_MOST_CONFUSED]]
        console.show(console.table(["shows", "answered", "images>"], rows))
    if found.robustness:
        console.show(_robustness(found))


def _images(found: Evaluation) -> str:
    where = f"the split {found.part} of {found.data}" if found.part else found.data
    if found.unreadable:
        where = f"{where}, without {len(found.unreadable):,} that could not be read"
    if found.part == "train":
        return f"{where}: a model knows what it was trained on, so all below flatters it"
    if found.trained_on is None:
        return f"{where}; whether the model was trained on them is not known"
    if found.trained_on:
        return f"{where}; {found.trained_on:,} more were trained on and left out"
    return f"{where}; none was trained on"


def _baseline(found: Evaluation) -> str:
    where = "in training" if found.baseline_from == "training" else "here; training's is not known"
    return f"always {printable(found.baseline_class)}, most common {where}"


def _robustness(found: Evaluation) -> Grid:
    rows = []
    for row, before in zip(found.robustness, (None, *found.robustness), strict=False):
        first = before is None or row.change != before.change
        rows.append([row.change if first else "", row.text, percent(row.accuracy), percent(row.agreement), row.views])
    return console.table(["change", "by>", "right answer>", "same answer>", "answers>"], rows)


def _plot(found: Evaluation, path: Path) -> None:
    """Draw each change by its strength, with the unchanged images where they belong among them."""
    from cnn_tl.evaluating.perturbations import PERTURBATIONS
    from cnn_tl.plots.robustness import plot_robustness

    panels: dict[str, list[tuple[float, str, float, float]]] = {}
    for row in found.robustness:
        if row.change != "none":
            unchanged = (PERTURBATIONS[row.change].identity, "none", found.accuracy, 1.0)
            panels.setdefault(row.change, [unchanged]).append((row.level, row.text, row.accuracy, row.agreement))
    points = {change: [point[1:] for point in sorted(levels)] for change, levels in panels.items()}
    plot_robustness(path, points, found.accuracy, found.baseline)
