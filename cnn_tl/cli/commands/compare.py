"""`cnn-tl compare`: finished runs side by side on the same images."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_tl.cli import completion
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.formatting import counted, percent

if TYPE_CHECKING:
    from cnn_tl.reporting.compare import Comparison

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN RUN...", help="The folders of finished runs.", autocompletion=completion.runs),
]
Report = Annotated[Path | None, typer.Option("--report", metavar="HTML", help="Also write a page with the images.")]


def compare(
    runs: Runs,
    report: Report = None,
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare finished runs on the validation images that they have in common.

    Images are joined by content. Each run is compared with the first one: the difference of their accuracies with its
    interval, McNemar's exact test (corrected for several runs), and what only one of them gets right.
    """
    from cnn_tl.reporting.compare import compare as run_compare
    from cnn_tl.reporting.compare_page import MOST_RUNS, write_comparison
    from cnn_tl.reporting.own_pages import require_page_place

    if len(runs) > MOST_RUNS:
        raise UsageError(f"compare takes at most {MOST_RUNS} runs")
    if report is not None:
        require_page_place(report, "--report")
    found = run_compare(runs)
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
    from cnn_tl.reporting.compare_page import cost_cells, difference_cells, quality_cells

    lettered = list(zip(ascii_uppercase, found.runs, strict=False))
    quality = [
        [letter, one.run, percent(one.accuracy), " - ".join(map(percent, one.interval)), *quality_cells(one)]
        for letter, one in lettered
    ]
    columns = ["", f"on {counted(found.images, 'image')}", "accuracy>", "95% interval>", "macro F1>", "log loss>"]
    console.show(console.table(columns, quality, dense=True))
    columns = ["", "mode", "backbone", "time>", "parameters>", "size>", "embedding>"]
    console.show(console.table(columns, [[letter, *cost_cells(one)] for letter, one in lettered], dense=True))
    p = "p, corrected>" if len(found.differences) > 1 else "p>"
    columns = ["", "difference>", "95% interval>", "only first>", "only second>", p]
    console.show(console.table(columns, [difference_cells(found, one) for one in found.differences], dense=True))
    for one in found.differences:
        console.say(one.verdict)
