"""`cnn-tl demo`: from images to an exported model, on data that needs no download."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Annotated

import typer

from cnn_tl.cli.commands import export, predict, train
from cnn_tl.cli.terminal import console

EXAMPLES = 5


def demo(
    output: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder to write.", show_default="cnn-tl-demo")
    ] = None,
) -> None:
    """Try train, predict and export on handwritten digits, in about a minute.

    Writes 1,797 digits as class folders and runs the commands on them, with default settings and without internet.
    """
    from cnn_tl.data.digits import write_digits
    from cnn_tl.training.run_folder import RunFolder

    folder = output or _free_folder()
    digits, run = folder / "digits", folder / "run"
    RunFolder(folder).require_new()
    count = write_digits(digits)
    console.say(f"{count:,} handwritten digits are in {digits}, one folder a class")

    _announce("train", digits, "--mode", "freeze", "--output", run)
    train.train(data=str(digits), mode="freeze", output=run)

    examples = _validation_images(run, digits)
    _announce("predict", run, *examples)
    predict.predict(run, [str(path) for path in examples])

    _announce("export", run)
    export.export(run)

    onnx = run / "model.onnx"
    _announce("predict", onnx, *examples)
    predict.predict(onnx, [str(path) for path in examples])


def _announce(*arguments: object) -> None:
    console.say(f"\n$ cnn-tl {shlex.join(str(argument) for argument in arguments)}")


def _free_folder() -> Path:
    names = itertools.chain(["cnn-tl-demo"], (f"cnn-tl-demo-{number}" for number in itertools.count(2)))
    return next(path for path in map(Path, names) if not path.exists())


def _validation_images(run: Path, digits: Path) -> list[Path]:
    """Return a few images that the model was not trained on."""
    from cnn_tl.core import files
    from cnn_tl.data.manifest import Manifest

    images = Manifest.from_json(files.read_json(run / "manifest.json")).of("val")
    return [digits / image.path for image in images[:: len(images) // EXAMPLES][:EXAMPLES]]
