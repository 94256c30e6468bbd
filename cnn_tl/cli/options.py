"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnn_tl.cli import completion
from cnn_tl.cli.terminal import console
from cnn_tl.core.device import DeviceName, unused_gpu

AnyModel = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|BUNDLE|ONNX", help="A run folder, a bundle or a .onnx file.", autocompletion=completion.runs
    ),
]
RunOrBundle = Annotated[
    Path, typer.Argument(metavar="RUN|BUNDLE", help="A run folder or a bundle.", autocompletion=completion.runs)
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images that go through the model together.")]
ChosenBatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Images that go through the model together.",
        show_default="32; on CUDA up to 256, by the size of the images",
    ),
]
ReadingThreads = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        max=64,
        help="Threads or processes that read images; 0: the main thread.",
        show_default="one per core",
    ),
]
MaxError = Annotated[
    str | None,
    typer.Option(
        "--max-error", metavar="SHARE", help="Answer only where at most this share of answers is wrong, such as 5%."
    ),
]
UnknownShare = Annotated[
    str | None,
    typer.Option(
        "--unknown", metavar="SHARE", help="Share of known images that may be called unknown.", show_default="1%"
    ),
]
WithheldUnknown = Annotated[
    str | None,
    typer.Option(
        "--unknown",
        metavar="SHARE",
        help="Withhold answers for images unlike the training ones; of the others about this share is lost.",
        show_default="none is withheld; the verdict is that of 1%",
    ),
]
WhereModelRuns = Annotated[DeviceName, typer.Option("--device", help="Where the model runs.")]

Recipe = Annotated[
    str | None,
    typer.Option("--recipe", help="The name of a shipped recipe, or a YAML file.", autocompletion=completion.recipes),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Set one key of the recipe; repeatable.",
        autocompletion=completion.settings,
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Backbone: any timm model; cnn-tl models lists them.",
        show_default="tf_efficientnet_lite0",
        autocompletion=completion.models,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="File with the backbone's weights: .safetensors or .pth."),
]
TrainBatchSize = Annotated[int | None, typer.Option("--batch-size", help="Images per training step.")]
ImageSize = Annotated[int | None, typer.Option("--image-size", metavar="PIXELS", help="Side of the network's input.")]
TrainDevice = Annotated[DeviceName | None, typer.Option("--device", help="Where to run.", show_default="auto")]
RecipeThreads = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Threads or processes that read images; 0: the main thread.", show_default="one per core"
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Fixes every random choice.", show_default="0")]


def note_unused_gpu(model: Path, device: DeviceName) -> None:
    """Note that a GPU is not used because torch is missing; a .onnx file would not use it anyway."""
    if model.suffix.lower() != ".onnx" and (text := unused_gpu(device)):
        console.note(text)
