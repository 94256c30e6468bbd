"""`cnn-tl benchmark`: how fast this machine runs each stage of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_tl.cli import completion
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.bars import TerminalObserver
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, duration, percent

if TYPE_CHECKING:
    from cnn_tl.evaluating.benchmark import BenchmarkReport


def benchmark(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Class folders.", show_default="scikit-learn's two photographs"),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Any timm model; its weights are random.", autocompletion=completion.models)
    ] = "tf_efficientnet_lite0",
    device: Annotated[DeviceName, typer.Option(help="Where to run.")] = "auto",
    images: Annotated[int, typer.Option(min=32, max=100_000, help="How many images to measure on.")] = 256,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    pictures: Annotated[
        int | None, typer.Option(min=32, max=100_000, hidden=True, help="The former name of --images.")
    ] = None,
) -> None:
    """Measure this machine: decoding, bare forward pass, embedding, fitting a head, a fine-tuning step.

    Each figure is the median of three rounds. Embedding is also shown as a share of the forward pass, its upper bound.
    """
    from cnn_tl.evaluating.benchmark import benchmark as measure

    if pictures is not None:
        console.note("--pictures is called --images now")
        images = pictures
    report = measure(data, model=model, device=device, images=images, observer=TerminalObserver())
    if json:
        console.print_json(report.to_dict())
    else:
        show_report(report)


def show_report(report: BenchmarkReport) -> None:
    """Print the table of stages, and what they ran on."""
    load = "" if report.load is None else f", load {report.load:.1f} at the start"
    images = f"{counted(report.images, 'image')} of {printable(report.data)}"
    console.say(f"{report.model} on {report.device}{load}; {images}")
    rows = [
        [
            stage.stage,
            "" if stage.images is None else f"{stage.images:,}",
            "" if stage.images_per_second is None else f"{stage.images_per_second:,.0f}",
            duration(stage.seconds),
            "" if stage.of_floor is None else percent(stage.of_floor, 0),
        ]
        for stage in report.stages
    ]
    console.show(console.table(["stage", "images>", "img/s>", "time>", "share of forward pass>"], rows))
    console.say(f"train embeds images in {report.precision} on this machine")
