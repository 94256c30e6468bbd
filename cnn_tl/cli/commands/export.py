"""`cnn-tl export`: a trained model in the format of other programs, compared with the original."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_tl.cli.options import RunOrBundle
from cnn_tl.cli.terminal import console
from cnn_tl.core.choices import ExportFormat
from cnn_tl.core.formatting import counted, percent, points, rate, small
from cnn_tl.exporting.options import Precision, Preprocess

if TYPE_CHECKING:
    from cnn_tl.exporting.export import ExportReport
    from cnn_tl.exporting.parity import Given
    from cnn_tl.exporting.precision_cost import Cost

_NEXT: dict[str, str] = {
    "onnx": "cnn-tl predict {quoted} IMAGES...",
    "openvino": "openvino.compile_model({xml!r})",
    "timm": "timm.create_model({local!r}, pretrained=True)",
    "torch": "torch.export.load({path!r}).module()",
}
_GIVEN: dict[Given, str] = {"prepared": "resized, cropped", "whole": "whole"}


FormatOption = Annotated[
    ExportFormat,
    typer.Option("--format", help="What to write; openvino and timm are folders, torch is a .pt2 program."),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="File or folder to write.", show_default="RUN/model.onnx, RUN/model-timm, ..."),
]
PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="Of the network; int8 is calibrated on the training images.")
]
MaxDrop = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        metavar="POINTS",
        show_default="the recipe's, 1",
        help="Accuracy that fp16 or int8 may cost; if it costs more, nothing is written.",
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="SHARE",
        show_default="the recipe's, 0.9",
        help="Share of images for which fp16 or int8 must give the answer of fp32.",
    ),
]
PreprocessOption = Annotated[
    Preprocess | None,
    typer.Option(
        "--preprocess",
        help="inside: the file takes whole images; none: normalised ones.",
        show_default="inside for onnx",
    ),
]
Outputs = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="What it returns: probabilities, logits, distance, features, separated by commas.",
        show_default="probabilities,logits,distance where supported",
    ),
]


def export(
    model: RunOrBundle,
    format: FormatOption = "onnx",
    output: Output = None,
    precision: PrecisionOption = "fp32",
    max_drop: MaxDrop = None,
    min_agreement: MinAgreement = None,
    preprocess: PreprocessOption = None,
    outputs: Outputs = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also print the comparison for each batch size.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Export a trained model, and compare it with the original on the validation images.

    An ONNX file takes whole images, uint8 [N, H, W, 3] of any size, in batches of any size, and has the class names in
    it. If its answers differ from the original's, or a lower precision costs too much, no file is left.
    """
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.exporting.options import Options, require_package
    from cnn_tl.networks import bundle

    asked = None if outputs is None else Options.check_outputs(outputs.split(","))
    options = Options(preprocess, asked, precision, max_drop, min_agreement)
    options.of(format)  # a wrong option fails before anything is announced, and so does a wrong path
    require_package(format)
    bundle.find(model)
    console.note(f"exporting to {format} and comparing; this takes a while")
    from cnn_tl.exporting.export import export as run_export

    report = run_export(model, output, format=format, options=options, observer=TerminalObserver())
    if json:
        console.print_json(report.to_dict())
    else:
        show_report(report, verbose=verbose)


def show_report(report: ExportReport, *, verbose: bool = False) -> None:
    """Print the verdict, what was written, and how to use it; `verbose` adds every comparison."""
    console.say(report.verdict)
    facts, path = report.facts, report.to_dict()["path"]
    written = f"{report.format} opset {facts['opset']}" if "opset" in facts else report.format
    rows = [
        ["folder" if report.path.is_dir() else "file", f"{path} ({report.bytes / 1e6:.1f} MB)"],
        ["model", f"{facts['architecture']}, {written}, {report.options.precision}"],
        *_differences(report),
        ["compared with", report.compared_with],
    ]
    if "onnxruntime" in facts:
        rows.insert(2, ["needs", f"onnxruntime {facts['onnxruntime']} or newer"])
    if report.cost and report.cost.calibration:
        rows.append(["calibrated on", report.cost.calibration])
    console.show(console.table(["export", ""], rows))
    if report.cost:
        _show_cost(report.cost)
    if verbose:
        _show_agreements(report)
    console.say("next:")
    places = {"path": path, "xml": f"{path}/model.xml", "local": f"local-dir:{path}"}
    quoted, following = shlex.quote(str(report.path)), _NEXT[report.format]
    if following.startswith("cnn-tl"):
        console.say_command([word.format(quoted=quoted) for word in following.split()])
    else:
        console.say("  " + following.format(**places))


def _differences(report: ExportReport) -> list[list[str]]:
    """Return by how much logits differ, for each kind of input, and distances."""
    rows: list[list[str]] = []
    for given in _GIVEN:
        if (found := report.largest(given)) is not None:
            allowed = (
                "" if report.cost else f"; {small(found.allowed_difference)} is allowed"
            )  # the cost is limited instead
            whole = f" on {found.images:,} whole images" if given == "whole" else ""
            differs = f"by {small(found.largest_difference)} at most{whole}{allowed}"
            rows.append(["" if rows else "logits differ", differs])
    measured = [one for given in _GIVEN if (one := report.largest(given)) and one.distance_difference is not None]
    for found in measured[:1]:
        allowed = "" if report.cost else f"; {small(found.allowed_distance_difference or 0)} is allowed"
        rows.append(["distances differ", f"by {small(found.distance_difference or 0)} of themselves at most{allowed}"])
    return rows


def _show_agreements(report: ExportReport) -> None:
    rows = []
    for found in report.parity:
        same = f"{found.same:,}" + (f", {found.ties} tied" if found.ties else "")
        given = _GIVEN[found.given] + (f", {found.sizes} sizes" if found.sizes > 1 else "")
        allowed = "any" if report.cost else small(found.allowed_difference)
        rows.append([given, found.batch_size, found.images, same, small(found.largest_difference), allowed])
    columns = ["given", "batch>", "images>", "same answer>", "logits differ>", "allowed>"]
    console.show(console.table(columns, rows))


def _show_cost(cost: Cost) -> None:
    """Print a lower precision compared with fp32."""
    before, after = cost.right_before / cost.images, cost.right_after / cost.images
    times = cost.speed_after / cost.speed_before
    rows = [
        ["accuracy", percent(before), percent(after), points(-cost.drop / 100, 2)],
        ["right", f"{cost.right_before:,}", f"{cost.right_after:,}", f"of {counted(cost.images, 'image')}"],
        [
            "size",
            f"{cost.bytes_before / 1e6:.1f} MB",
            f"{cost.bytes_after / 1e6:.1f} MB",
            f"{cost.bytes_after / cost.bytes_before:.2f} x",
        ],
        [
            "speed",
            rate(cost.speed_before),
            rate(cost.speed_after),
            f"{times:.2f} x, batches of 32 in turn",
        ],
        ["same answer", "", percent(cost.same_answer), "of fp32's"],
        ["probabilities", "", "", f"change by {points(cost.largest_change)[1:]} at most"],
    ]
    if cost.unknown_before is not None:
        rows.append(["unknown", f"{cost.unknown_before:,}", f"{cost.unknown_after:,}", "of these known images"])
    console.show(console.table(["", "fp32>", f"{cost.precision}>", ""], rows))
