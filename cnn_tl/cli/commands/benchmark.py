"""`cnn-tl benchmark`: how fast this machine runs each stage of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_tl.cli import completion
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.bars import TerminalObserver
from cnn_tl.core.cpu import usable
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, duration, percent

if TYPE_CHECKING:
    from cnn_tl.evaluating.benchmark import BenchmarkReport, StageSpeed


def benchmark(
    data: Annotated[
        Path | None,
        typer.Argument(metavar="DATA", help="Class folders.", show_default="scikit-learn's two photographs"),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Any timm model; its weights are random.", autocompletion=completion.models)
    ] = "tf_efficientnet_lite0",
    device: Annotated[DeviceName, typer.Option(help="Where to run.")] = "auto",
    images: Annotated[int, typer.Option(min=32, max=100_000, help="How many images of DATA to use.")] = 256,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    pictures: Annotated[
        int | None, typer.Option(min=32, max=100_000, hidden=True, help="The former name of --images.")
    ] = None,
) -> None:
    """Measure this machine in half a minute: decoding, forward pass, embedding, head fit, random views, training steps.

    The time is divided over the stages. The last lines say what limits training and mode freeze here.
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
    """Print the table of stages, what they ran on, and the verdict."""
    images = f"{counted(report.images, 'image')} of {printable(report.data)}"
    console.say(f"{report.model} on {report.device}; {images}")
    if report.unreadable:
        console.say(f"{counted(report.unreadable, 'image')} could not be read and {was(report.unreadable)} left out")
    rows = [
        [
            stage.stage,
            "" if stage.value is None else in_unit(stage.value, stage.unit),
            "" if stage.images is None else f"{stage.images:,}",
            remark(stage),
        ]
        for stage in report.stages
    ]
    console.show(console.table(["stage", "speed>", "images>", "remark"], rows))
    console.say(f"train embeds images in {report.precision} on this machine, and makes steps in {report.step}")
    if report.load is not None and report.load > usable():
        load = f"a load of {report.load:.1f} on {counted(usable(), 'core')}"
        console.say(f"other programs use this machine ({load} at the start), so the figures are too low")
    for sentence in report.verdict:
        console.say(sentence)


def remark(stage: StageSpeed) -> str:
    """Return what fraction of its upper limit a stage reaches, and what else to know about it."""
    limit = "tensors ready" if stage.stage.startswith("training") else "forward pass"
    share = "" if stage.of_floor is None else f"{percent(min(stage.of_floor, 1), 0)} of {limit}"
    return "; ".join(filter(None, (share, stage.note)))


def in_unit(value: float, unit: str) -> str:
    """Return such as "1,320 img/s", "24.1 GB/s" or "4.1 s"."""
    if unit == "s":
        return duration(value)
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def was(count: int) -> str:
    """Return "was" or "were"."""
    return "was" if count == 1 else "were"
