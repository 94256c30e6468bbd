"""`cnn-tl evaluate`: the accuracy of a trained model on labelled images, and its robustness."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli.options import (
    AnyModel,
    ChosenBatchSize,
    MaxError,
    ReadingThreads,
    UnknownShare,
    WhereModelRuns,
    note_unused_gpu,
)
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.abstention import show_abstention
from cnn_tl.cli.terminal.accuracy import ADVICE_AFTER_EVALUATION, show_classes, warn_if_no_better
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.formatting import parse_share, percent

if TYPE_CHECKING:
    from cnn_tl.cli.terminal.tables import Grid
    from cnn_tl.evaluating.evaluate import Evaluation
    from cnn_tl.metrics.figures import ClassFigures

_WHERE_ALL_ARE = "--all-classes and --json print all of them"
_MOST_CONFUSED = 5


SplitOption = Annotated[
    Literal["test", "val", "train"] | None,
    typer.Option("--split", "--part", help="Split of DATA to evaluate.", show_default="test if there is one, else val"),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Evaluate at most this many images, from each class in proportion.")
]
PlotFile = Annotated[
    Path | None, typer.Option(metavar="PNG", help="File for the plot of --robustness.", show_default="robustness.png")
]

WrongFile = Annotated[
    Path | None, typer.Option("--wrong", metavar="CSV", help="File for every wrong image, the most confident first.")
]
AnswersFile = Annotated[
    Path | None, typer.Option("--answers", metavar="JSONL", help="File for all answers, one JSON line an image.")
]
UnknownImages = Annotated[
    Path | None,
    typer.Option("--unknown-images", metavar="FOLDER", help="Images of none of the classes: how many are answered?"),
]
RiskPlot = Annotated[
    Path | None, typer.Option("--risk-plot", metavar="PNG", help="File for a plot of errors by the share answered.")
]
ReportFile = Annotated[
    Path | None, typer.Option("--report", metavar="HTML", help="File for all of it as one page, with images.")
]


def evaluate(
    model: AnyModel,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder of class folders, or of train/, val/, test/.")],
    split: SplitOption = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also evaluate shifted, scaled, rotated, blurred and relit images.")
    ] = False,
    limit: Limit = None,
    output: PlotFile = None,
    wrong: WrongFile = None,
    report: ReportFile = None,
    answers: AnswersFile = None,
    max_error: MaxError = None,
    unknown: UnknownShare = None,
    unknown_images: UnknownImages = None,
    risk_plot: RiskPlot = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="List every class, even if there are many.")
    ] = False,
    batch_size: ChosenBatchSize = None,
    workers: ReadingThreads = None,
    device: WhereModelRuns = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Evaluate a trained model on labelled images, and with --robustness on changed images too.

    Images that the model was trained on are left out, even if they have been moved, where its run folder is available.
    """
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.evaluating.evaluate import EvaluationOptions
    from cnn_tl.evaluating.evaluate import evaluate as run_evaluation
    from cnn_tl.inference.safe_output import require_plot_place
    from cnn_tl.reporting.evaluation_files import EvaluationFiles

    if output is not None and not robustness:
        raise UsageError("--output is the file for the plot of --robustness; add --robustness, or leave --output out")
    plot = output or Path("robustness.png")
    if robustness:
        require_plot_place(plot)
    if risk_plot is not None:
        require_plot_place(risk_plot, "--risk-plot")
        if robustness and risk_plot.resolve() == plot.resolve():
            raise UsageError(f"--risk-plot and --output are the same file, {printable(plot)}; choose another name")
    places = EvaluationFiles(wrong=wrong, answers=answers, report=report)
    places.require_places(model)
    note_unused_gpu(model, device)
    options = EvaluationOptions(
        split,
        robustness,
        limit,
        batch_size,
        workers,
        device,
        places.need_digests,
        None if max_error is None else parse_share(max_error, "--max-error"),
        None if unknown is None else parse_share(unknown, "--unknown"),
        unknown_images,
    )
    found = run_evaluation(model, data, options, TerminalObserver())
    if robustness:
        _plot(found, plot)
    if risk_plot is not None:
        _plot_risk(found, risk_plot)
    if json:
        console.print_json(found.to_dict())
    else:
        show_evaluation(found, all_classes=all_classes)
    remarks = places.write(found, device)  # after the figures, which an error must not take along
    warn_if_no_better(found.accuracy, found.interval, found.baseline, ADVICE_AFTER_EVALUATION)
    for note in (*found.notes, *remarks):
        console.note(note)
    for file, reason in found.unreadable:
        console.warn(f"{file} could not be read and is not counted: {reason}")
    if robustness:
        console.note(f"the plot is in {printable(plot)}")
    if risk_plot is not None:
        console.note(f"the plot of errors by the share answered is in {printable(risk_plot)}")
    for what, path in (("wrong images are", wrong), ("answers are", answers), ("report is", report)):
        if path is not None:
            console.note(f"the {what} in {printable(path)}")


def show_evaluation(found: Evaluation, *, all_classes: bool = False) -> None:
    """Print the accuracy, class by class, and the most frequent confusions."""
    console.show(console.table(["evaluation", ">", ""], _figures(found), dense=True))
    console.show(_averages(found))
    cells = {name: _cells(one) for name, one in found.per_class.items()}
    show_classes(
        ["right / images>", "right / answers>", "recall>", "precision>", "F1>"],
        cells,
        _WHERE_ALL_ARE,
        every=all_classes,
    )
    if confused := found.confused():
        rows = [[printable(true), printable(answer), count] for count, true, answer in confused[:_MOST_CONFUSED]]
        console.show(console.table(["true class", "answer", "images>"], rows))
    show_abstention(found.abstention)
    if found.robustness:
        console.show(_robustness(found))


def _figures(found: Evaluation) -> list[list[str]]:
    low, high = found.interval
    rows = [
        ["images", f"{found.images:,}", _images(found)],
        ["accuracy", percent(found.accuracy), f"{found.correct:,} right"],
        ["95% interval", f"{percent(low)} - {percent(high)}", "Wilson; more images make it narrower"],
        ["majority-class baseline", percent(found.baseline), _baseline(found)],
        ["balanced accuracy", percent(found.balanced_accuracy), "each class weighs the same"],
        ["calibration error", percent(found.calibration_error), "mean gap of probability and accuracy"],
        ["log loss", f"{found.log_loss:.3f}", "nats; 0 is certain and right"],
    ]
    k = len(found.top_k)
    if len(found.classes) > k:
        share = percent(found.top_k[-1])
        rows.insert(3, [f"top-{k} accuracy", share, f"the class is among the {k} most probable"])
    return rows


def _averages(found: Evaluation) -> Grid:
    """Return a table of the averages over classes: alike, and by their images."""
    rows = [
        [name, percent(one.recall), percent(one.precision), percent(one.f1), text]
        for name, one, text in (
            ("macro", found.macro, "each class weighs the same"),
            ("weighted", found.weighted, "by images"),
        )
    ]
    return console.table(["mean of classes", "recall>", "precision>", "F1>", ""], rows)


def _cells(one: ClassFigures) -> tuple[int, int, str, str, str, str]:
    answers = f"{one.right} / {one.answered}"
    return one.right, one.images, answers, _share(one.recall), _share(one.precision), _share(one.f1)


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _images(found: Evaluation) -> str:
    where = f"split {found.split} of {found.data}" if found.split else found.data
    if found.unreadable:
        where = f"{where}, without {len(found.unreadable):,} that could not be read"
    if found.split == "train":
        return f"{where}: the model was trained on these images, so all figures below are too good"
    if found.trained_on is None:
        return f"{where}; it is not known whether the model was trained on them"
    if found.trained_on:
        return f"{where}; {found.trained_on:,} training images left out"
    return f"{where}; no training image among them"


def _baseline(found: Evaluation) -> str:
    where = "in training" if found.baseline_from == "training" else "here, as that in training is not known"
    return f"always {printable(found.baseline_class)}, most common {where}"


def _robustness(found: Evaluation) -> Grid:
    rows = []
    for row, before in zip(found.robustness, (None, *found.robustness), strict=False):
        first = before is None or row.change != before.change
        rows.append([row.change if first else "", row.text, percent(row.accuracy), percent(row.agreement), row.views])
    return console.table(["change", "strength>", "accuracy>", "same answer>", "answers>"], rows)


def _plot(found: Evaluation, path: Path) -> None:
    """Draw accuracy and agreement by strength for each change, with the unchanged images in their place."""
    from cnn_tl.evaluating.perturbations import PERTURBATIONS
    from cnn_tl.plots.robustness import plot_robustness

    panels: dict[str, list[tuple[float, str, float, float]]] = {}
    for row in found.robustness:
        if row.change != "none":
            unchanged = (PERTURBATIONS[row.change].identity, "none", found.accuracy, 1.0)
            panels.setdefault(row.change, [unchanged]).append((row.level, row.text, row.accuracy, row.agreement))
    points = {change: [point[1:] for point in sorted(levels)] for change, levels in panels.items()}
    plot_robustness(path, points, found.accuracy, found.baseline)


def _plot_risk(found: Evaluation, path: Path) -> None:
    from cnn_tl.abstention.risk import risk_coverage
    from cnn_tl.plots.risk_coverage import plot_risk_coverage

    curve, check = risk_coverage(found.answers.confidence, found.answers.right), found.abstention.promise
    point = None if check is None or check.error is None else (check.coverage, check.error)
    plot_risk_coverage(path, curve, None if check is None else check.max_error, point)
