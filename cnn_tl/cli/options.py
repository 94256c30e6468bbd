"""Flags that several commands have alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnn_tl.cli import completion
from cnn_tl.core.device import DeviceName

AnyModel = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|BUNDLE|ONNX", help="A run folder, a bundle or a .onnx file.", autocompletion=completion.runs
    ),
]
RunOrBundle = Annotated[
    Path, typer.Argument(metavar="RUN|BUNDLE", help="A run folder or a bundle.", autocompletion=completion.runs)
]
AtOnce = Annotated[int, typer.Option("--batch-size", min=1, help="Images that go through the model at once.")]
Readers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=0, max=64, help="Threads that read images; 0: the main one.", show_default="one per core"
    ),
]
WhereModelRuns = Annotated[DeviceName, typer.Option("--device", help="Where the model runs.")]

Recipe = Annotated[
    str | None,
    typer.Option("--recipe", help="A shipped recipe's name, or a YAML file.", autocompletion=completion.recipes),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Change one key; repeatable.", autocompletion=completion.settings
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Any timm model; see cnn-tl models.",
        show_default="tf_efficientnet_lite0",
        autocompletion=completion.models,
    ),
]
Weights = Annotated[Path | None, typer.Option("--weights", metavar="FILE", help="Weights file: .safetensors or .pth.")]
StepSize = Annotated[int | None, typer.Option("--batch-size", help="Images in one step.")]
ImageSize = Annotated[int | None, typer.Option("--image-size", metavar="PIXELS", help="Side of the network's input.")]
WhereToCompute = Annotated[DeviceName | None, typer.Option("--device", help="Where to compute.", show_default="auto")]
RecipeReaders = Annotated[
    int | None,
    typer.Option("--workers", help="Threads that read images; 0: the main one.", show_default="one per core"),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Every random choice follows from it.", show_default="0")]
