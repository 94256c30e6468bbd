"""`cnn-tl explain`: why a trained model answers as it does, in images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cnn_tl.cli import options
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import certainty, counted, unreadable

if TYPE_CHECKING:
    from cnn_tl.cli.terminal.tables import Grid
    from cnn_tl.explaining.explain import Report

Method = Literal[
    "gradcam", "xgradcam", "layercam", "occlusion", "feature-maps", "deconv", "guided", "top-patches", "filters"
]  # fmt: skip


def explain(
    model: options.RunOrBundle,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGES", help="Files, folders and patterns; for top-patches those to search."),
    ] = None,
    method: Annotated[Method, typer.Option(help="How to explain.")] = "gradcam",
    layer: Annotated[
        str | None, typer.Option(help="The layer to look at.", show_default="the last map before the global pool")
    ] = None,
    class_: Annotated[
        str | None,
        typer.Option("--class", metavar="NAME", help="The class to explain.", show_default="the predicted one"),
    ] = None,
    channel: Annotated[
        list[int] | None, typer.Option(help="A channel of the layer; repeatable.", show_default="the strongest")
    ] = None,
    patch: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Side of occlusion's patch, a share of the image's.", show_default="0.2"),
    ] = None,
    stride: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Its step, likewise.", show_default="0.08")
    ] = None,
    faithfulness: Annotated[
        bool, typer.Option(help="Measure deletion and insertion of each heat map; 200 passes an image.")
    ] = True,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take at most so many of the images.", show_default="all")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write.", show_default="explanations/METHOD")
    ] = None,
    device: options.WhereModelRuns = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Show why a trained model answers as it does: one PNG for each image, and a contact sheet.

    gradcam, xgradcam, layercam and occlusion give heat maps, each with its deletion and insertion areas beside those of
    random maps. feature-maps, deconv and guided show the strongest channels of a layer (as maps, or projected back to
    pixels), top-patches what excites them in a folder of images, filters the first kernels.
    """
    from cnn_tl.core.device import default_workers, require_torch
    from cnn_tl.explaining import options as requests
    from cnn_tl.inference.inputs import find
    from cnn_tl.networks import bundle

    folder = output or Path("explanations", method)
    requests.check_model(model)
    requests.check_output(folder)
    bundle.find(model)  # a wrong path is refused before the seconds that torch takes
    request = requests.Request(
        method=method,
        images=list(find(images or []))[:limit],
        layer=layer,
        label=class_,
        channels=channel or (),
        patch=patch,
        stride=stride,
        faithfulness=faithfulness,
        workers=default_workers(),
    )
    require_torch()
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.explaining.explain import explain as run_explain
    from cnn_tl.explaining.model import load

    screen = TerminalObserver()
    with screen.task("loading the model", None):
        subject = load(model, device)
    report = run_explain(subject, request, folder, screen)
    if json:
        console.print_json(report.to_dict())
    else:
        show_report(report)
    if report.unread:
        raise DataError(unreadable(report.unread, len(request.images)))


def show_report(report: Report) -> None:
    """Print what was found in each image, how far it can be trusted, and where it is."""
    console.show(_table(report))
    for curve in ("deletion", "insertion"):
        better, judged = report.better_than_random(curve)
        if judged:
            console.say(f"{curve} better than a random map on {better:,} of {counted(judged, 'image')}")
    if report.layer is not None:
        console.say(f"layer {report.layer}")
    if report.sheets:
        console.say(f"{printable(report.folder)}: a PNG each, and {', '.join(report.sheets)}")


def _table(report: Report) -> Grid:
    rows = report.rows
    if report.method == "filters":
        sizes = [[row["layer"], row["filters"], f"{row['height']} x {row['width']}"] for row in rows]
        return console.table(["first convolution", "filters>", "size>"], sizes)
    if report.method == "top-patches":
        return console.table(["channel>", "activation>", "patch px>", "strongest in"], map(_channel_cells, rows))
    if report.method in ("feature-maps", "deconv", "guided"):
        return console.table(["file", "label", "prob.>", "channels"], map(_image_cells, rows))
    measured = any(row.get("deletion") is not None for row in rows)
    columns = ["deletion>", "random>", "insertion>", "random>"] if measured else ["map"]
    cells = [[*_answer_cells(row), *_heat_cells(row, measured)] for row in rows]
    return console.table(["file", "label", "prob.>", *columns], cells, dense=True)


def _channel_cells(row: dict[str, Any]) -> list[object]:
    if row["error"] is not None:
        return ["", "", "", f"{printable(row['file'])}: {row['error']}"]
    best = row["best"][0]
    return [row["channel"], f"{best['activation']:.3g}", row["receptive_field"], printable(best["file"])]


def _answer_cells(row: dict[str, Any]) -> list[object]:
    if row["error"] is not None:
        return [printable(row["file"]), f"error: {row['error']}", ""]
    label, true = printable(row["label"]), row["true"]
    named = label if true in (None, row["label"]) else f"{label}, not {printable(true)}"
    return [printable(row["file"]), named, certainty(row["probability"])]


def _image_cells(row: dict[str, Any]) -> list[object]:
    return [*_answer_cells(row), " ".join(map(str, row.get("channels", ())))]


def _heat_cells(row: dict[str, Any], measured: bool) -> list[object]:
    """Return the areas where any were measured; else the class that the map is for."""
    caveat = row.get("caveat") and ("empty" if row["empty"] else "as grey")
    if not measured:
        return [caveat or printable(row.get("class", ""))]
    areas = [row.get(name) for name in ("deletion", "random_deletion", "insertion", "random_insertion")]
    return [caveat or "", "", "", ""] if areas[0] is None else [f"{area:z.2f}" for area in areas]
