"""`cnn-tl export`: a trained model as one file for other programs, proven to be the same model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli import console
from cnn_tl.exporting.options import Preprocess

if TYPE_CHECKING:
    from cnn_tl.exporting.export import ExportReport

Format = Literal["onnx"]
_GIVEN = {"prepared": "resized and cropped", "whole": "whole"}


def export(
    model: Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A run folder or a bundle.")],
    format: Annotated[Format, typer.Option(help="What to write.")] = "onnx",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it.", show_default="RUN/model.onnx")
    ] = None,
    preprocess: Annotated[
        Preprocess, typer.Option(help="inside: the file takes whole pictures; none: normalised ones.")
    ] = "inside",
    outputs: Annotated[
        str, typer.Option(metavar="NAMES", help="What it gives, of probabilities, logits and features, by commas.")
    ] = "probabilities,logits",
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Export a trained model, and compare it with the original on the validation pictures.

    The file takes whole pictures, uint8 [N, H, W, 3] of any size, in batches of any size, and carries the class
    names. If its answers differ from the original's, no file is left.
    """
    from cnn_tl.cli.progress import TerminalObserver
    from cnn_tl.exporting.options import Options
    from cnn_tl.networks import bundle
    from cnn_tl.runtime import require_torch

    options = Options(preprocess, Options.read_outputs(outputs))
    bundle.find(model)  # a wrong path is refused before the seconds that torch takes
    console.note(f"exporting to {format} and comparing; this takes a while (about 10 s for a small model)")
    require_torch()
    from cnn_tl.exporting.export import export as run_export

    report = run_export(model, output, format=format, options=options, observer=TerminalObserver())
    if json:
        console.print_json(report.to_dict())
    else:
        show_report(report)


def show_report(report: ExportReport) -> None:
    """Print what was written, the proof, and what to do with the file."""
    facts = report.facts
    rows = [
        ["file", f"{report.to_dict()['path']} ({report.bytes / 1e6:.1f} MB)"],
        ["model", f"{facts['architecture']}, {report.format} opset {facts['opset']}"],
        ["compared on", report.pictures],
    ]
    console.show(console.table(["export", ""], rows))
    agreements = []
    for found in report.parity:
        difference, same = f"{found.largest_difference:.1e}", f"{100 * found.top1:.1f} %"
        agreements.append([_GIVEN[found.given], found.batch_size, found.pictures, difference, same])
    columns = ["pictures given", "batch>", "pictures>", "largest logit difference>", "same answer>"]
    console.show(console.table(columns, agreements))
    console.say("next:")
    console.say(f"  cnn-tl predict {shlex.quote(str(report.path))} IMAGES...")
