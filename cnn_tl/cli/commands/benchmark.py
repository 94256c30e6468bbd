"""`cnn-tl benchmark`: how fast this machine is, stage by stage."""

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
    from cnn_tl.evaluating.benchmark import Report


def benchmark(
    data: Annotated[
        Path | None, typer.Argument(metavar="DATA", help="Class folders.", show_default="photographs of scikit-learn's")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Any timm model; its weights are random.", autocompletion=completion.models)
    ] = "tf_efficientnet_lite0",
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = "auto",
    images: Annotated[int, typer.Option(min=32, max=100_000, help="How many images to measure on.")] = 256,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    pictures: Annotated[
        int | None, typer.Option(min=32, max=100_000, hidden=True, help="The former name of --images.")
    ] = None,
) -> None:
    """Measure this machine: decode, bare forward pass, embedding, head fit, fine-tuning step.

    All in one run, the median of three rounds. The floor is the bare forward pass: ready tensors through the network.
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


def show_report(report: Report) -> None:
    """Print the table of stages, and what they were measured on."""
    load = "" if report.load is None else f", load {report.load:.1f} before"
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
    console.show(console.table(["stage", "images>", "img/s>", "time>", "of the floor>"], rows))
    console.say(f"training images would be embedded in {report.precision} here")
