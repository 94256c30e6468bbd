"""Flags that several commands have alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cnn_tl.runtime import DeviceName

AnyModel = Annotated[Path, typer.Argument(metavar="RUN|BUNDLE|ONNX", help="A run folder, a bundle or a .onnx file.")]
AtOnce = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures that go through the model at once.")]
Readers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=0, max=64, help="Threads that read pictures; 0: the main one.", show_default="one per core"
    ),
]
WhereModelRuns = Annotated[DeviceName, typer.Option("--device", help="Where the model runs.")]
