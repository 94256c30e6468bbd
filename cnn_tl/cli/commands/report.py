"""`cnn-tl report`: a finished run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cnn_tl.cli import completion
from cnn_tl.cli.options import WhereModelRuns
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import printable

Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a finished run.", autocompletion=completion.runs)
]
Output = Annotated[
    Path | None, typer.Option(metavar="HTML", help="File to write.", show_default="report.html in the run folder")
]
HeatMapOption = Annotated[
    Literal["auto", "none"],
    typer.Option("--heat-maps", help="Over the worst mistakes; auto: at most 24, for at most 15 s."),
]


def report(
    run: Run,
    output: Output = None,
    heat_maps: HeatMapOption = "auto",
    device: WhereModelRuns = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print all figures of the page as JSON.")] = False,
) -> None:
    """Write all about a finished run into one HTML file, which loads nothing from elsewhere.

    A verdict, the figures on the validation images with their uncertainty, the confusion matrix, the worst mistakes,
    labels that look wrong, typical and strange images of each class, the data, the cost, and how to do it again.
    """
    from cnn_tl.reporting.report import PageOptions
    from cnn_tl.reporting.written import report as write

    written = write(run, output, PageOptions(heat_maps=heat_maps == "auto", device=device))
    if json:
        console.print_json(written.to_dict())
    else:
        for sentence in written.verdict:
            console.say(sentence)
    for note in written.notes:
        console.note(note)
    console.note(f"the report is in {printable(written.path)}")
