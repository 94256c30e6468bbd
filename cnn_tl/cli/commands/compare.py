"""`cnn-tl compare`: finished runs side by side on the same images."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli import completion
from cnn_tl.cli.options import WhereModelRuns
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.formatting import counted, percent

if TYPE_CHECKING:
    from cnn_tl.reporting.compare import Comparison

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN RUN",
        help="Folders of finished runs, or files of evaluate --answers; with --data also bundles and .onnx files.",
        autocompletion=completion.runs,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DATA", help="Evaluate all runs on these images first.", show_default="each run's validation images"
    ),
]
Split = Annotated[
    Literal["train", "val", "test"] | None,
    typer.Option(help="Of DATA.", show_default="test if there is one, else val"),
]
Report = Annotated[Path | None, typer.Option("--report", metavar="HTML", help="Also write a page with the images.")]


def compare(
    runs: Runs,
    data: Data = None,
    split: Split = None,
    report: Report = None,
    device: WhereModelRuns = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare finished runs on the same images: the validation images that they have in common, or DATA.

    Images are joined by content. Each run is compared with the first one: the difference of their accuracies with its
    interval, McNemar's exact test (corrected for several runs), and what only one of them gets right.
    """
    from cnn_tl.reporting.compare import compare as run_compare
    from cnn_tl.reporting.compare_page import write_comparison
    from cnn_tl.reporting.own_pages import require_page_place

    if report is not None:
        require_page_place(report, "--report")
    if data is None and split is not None:
        raise UsageError("--split is one of DATA; name its folder with --data")
    if data is None:
        found = run_compare(runs)
    else:
        from cnn_tl.cli.terminal.bars import TerminalObserver
        from cnn_tl.evaluating.evaluate import EvaluationOptions

        found = run_compare(runs, data, EvaluationOptions(split=split, device=device), TerminalObserver())
    if report is not None:
        write_comparison(found, report)
    if json:
        console.print_json(found.to_dict())
    else:
        show_comparison(found)
    for note in found.notes:
        console.note(note)
    if report is not None:
        console.note(f"the report is in {printable(report)}")


def show_comparison(found: Comparison) -> None:
    """Print the runs, what they cost, their differences, and a sentence on each."""
    from cnn_tl.reporting.compare_page import cost_columns, difference_cells, quality_cells

    lettered = list(zip(ascii_uppercase, found.runs, strict=False))
    quality = [
        [letter, one.run, percent(one.accuracy), " - ".join(map(percent, one.interval)), *quality_cells(one)]
        for letter, one in lettered
    ]
    columns = ["", f"on {counted(found.images, 'image')}", "accuracy>", "95% interval>", "macro F1>", "log loss>"]
    console.show(console.table(columns, quality, dense=True))
    if costs := cost_columns(found):
        columns = ["", *(header if header in ("mode", "backbone") else f"{header}>" for header in costs)]
        letters = [letter for letter, _ in lettered]
        console.show(console.table(columns, list(zip(letters, *costs.values(), strict=True)), dense=True))
    p = "p, corrected>" if len(found.differences) > 1 else "p>"
    columns = ["", "difference>", "95% interval>", "only first>", "only second>", p]
    console.show(console.table(columns, [difference_cells(found, one) for one in found.differences], dense=True))
    for one in found.differences:
        console.say(one.verdict)
