"""`cnn-tl explain`: why a trained model answers as it does, in images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli import options
from cnn_tl.cli.terminal import console
from cnn_tl.core.choices import ExplainMethod
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import certainty, counted, unreadable

if TYPE_CHECKING:
    from cnn_tl.cli.terminal.tables import Grid
    from cnn_tl.explaining.report import ExplainReport, HeatMapRow, Prediction, Row

Images = Annotated[
    list[str] | None,
    typer.Argument(metavar="IMAGES", help="Files, folders and patterns; for top-patches the images to search."),
]
Layer = Annotated[
    str | None, typer.Option(help="The layer to look at.", show_default="the last map before the global pool")
]
ClassName = Annotated[
    str | None, typer.Option("--class", metavar="NAME", help="The class to explain.", show_default="the predicted one")
]
Channels = Annotated[
    list[int] | None, typer.Option(help="A channel of the layer; repeatable.", show_default="the strongest")
]
Patch = Annotated[
    float | None,
    typer.Option(min=0.01, max=1, help="Occlusion: side of the patch, a share of the image's.", show_default="0.2"),
]
Stride = Annotated[
    float | None, typer.Option(min=0.01, max=1, help="Occlusion: step of the patch, likewise.", show_default="0.08")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Explain at most this many images.", show_default="all")]
Output = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder to write.", show_default="explanations/METHOD")
]


def explain(
    model: options.RunOrBundle,
    images: Images = None,
    method: Annotated[ExplainMethod, typer.Option(help="How to explain.")] = "gradcam",
    layer: Layer = None,
    class_: ClassName = None,
    channel: Channels = None,
    patch: Patch = None,
    stride: Stride = None,
    faithfulness: Annotated[
        bool, typer.Option(help="Measure deletion and insertion of each heat map; 200 passes per image.")
    ] = True,
    limit: Limit = None,
    output: Output = None,
    device: options.WhereModelRuns = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Show why a trained model answers as it does: one PNG for each image, and a contact sheet.

    gradcam, xgradcam, layercam and occlusion draw heat maps, and compare their deletion and insertion areas with those
    of random maps. feature-maps, deconv and guided show the strongest channels of a layer (as maps, or projected back
    to pixels), top-patches the patches that activate a channel most in a folder of images, filters the first kernels.
    """
    from cnn_tl.explaining.options import Method, prepare

    chosen = Method(method, layer, class_, tuple(channel or ()), patch, stride, faithfulness)
    job = prepare(model, images or [], output, chosen, limit=limit)
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.explaining.explain import explain as run_explain

    report = run_explain(job, device, TerminalObserver())
    if json:
        console.print_json(report.to_dict())
    else:
        show_report(report)
    if report.unreadable:
        raise DataError(unreadable(report.unreadable, len(job.images)))


def show_report(report: ExplainReport) -> None:
    """Print a row for each image, how faithful the heat maps are, and where the PNGs are."""
    console.show(_table(report))
    curves: tuple[Literal["deletion", "insertion"], ...] = ("deletion", "insertion")
    for curve in curves:
        better, measured = report.better_than_random(curve)
        if measured:
            console.say(f"{curve} better than a random map on {better:,} of {counted(measured, 'image')}")
    if report.layer is not None:
        console.say(f"layer {report.layer}")
    if report.sheets:
        console.say(f"{printable(report.folder)}: one PNG each, and {', '.join(report.sheets)}")


def _table(report: ExplainReport) -> Grid:
    rows = report.rows
    if report.method == "filters":
        return console.table(["first convolution", "filters>", "size>"], map(_filter_cells, rows))
    if report.method == "top-patches":
        return console.table(["channel>", "activation>", "patch px>", "strongest in"], map(_patch_cells, rows))
    if report.method in ("feature-maps", "deconv", "guided"):
        return console.table(["file", "label", "probability>", "channels"], map(_channel_cells, rows))
    measured = report.better_than_random("deletion")[1] > 0
    columns = ["deletion (random)>", "insertion (random)>"] if measured else ["map"]
    cells = [_heat_map_cells(row, measured) for row in rows]
    return console.table(["file", "label", "probability>", *columns], cells, dense=True)


def _filter_cells(row: Row) -> list[object]:
    from cnn_tl.explaining.report import FiltersRow

    assert isinstance(row, FiltersRow)
    return [row.layer, row.filters, f"{row.height} x {row.width}"]


def _patch_cells(row: Row) -> list[object]:
    from cnn_tl.explaining.report import TopPatchesRow, UnreadableRow

    if isinstance(row, UnreadableRow):
        return ["", "", "", f"{printable(row.file)}: {row.error}"]
    assert isinstance(row, TopPatchesRow)
    strongest = row.best[0]
    return [row.channel, f"{strongest.activation:.3g}", row.receptive_field, printable(strongest.file)]


def _channel_cells(row: Row) -> list[object]:
    from cnn_tl.explaining.report import ChannelsRow, UnreadableRow

    if isinstance(row, UnreadableRow):
        return _error_cells(row.file, row.error, 1)
    assert isinstance(row, ChannelsRow)
    return [*_prediction_cells(row), " ".join(map(str, row.channels))]


def _heat_map_cells(row: Row, measured: bool) -> list[object]:
    from cnn_tl.explaining.report import HeatMapRow, UnreadableRow

    if isinstance(row, UnreadableRow):
        return _error_cells(row.file, row.error, 2 if measured else 1)
    assert isinstance(row, HeatMapRow)
    return [*_prediction_cells(row), *_area_cells(row, measured)]


def _area_cells(row: HeatMapRow, measured: bool) -> list[object]:
    """Return the areas, with those of random maps, if any image has them; else the class that the map is for."""
    caveat = ("empty" if row.empty else "as grey") if row.caveat else ""
    if not measured:
        return [caveat or printable(row.explained)]
    areas = row.areas
    if areas is None:
        return [caveat, ""]
    pairs = (areas.deletion, areas.random_deletion), (areas.insertion, areas.random_insertion)
    return [f"{area:z.2f} ({random:z.2f})" for area, random in pairs]


def _prediction_cells(row: Prediction) -> list[object]:
    label = printable(row.label)
    named = label if row.true in (None, row.label) else f"{label}, not {printable(str(row.true))}"
    return [printable(row.file), named, certainty(row.probability)]


def _error_cells(file: str, error: str, more: int) -> list[object]:
    return [printable(file), f"error: {error}", "", *[""] * more]
