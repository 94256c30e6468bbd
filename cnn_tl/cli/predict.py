"""`cnn-tl predict`: what a trained model sees in pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from cnn_tl import files
from cnn_tl.cli import console
from cnn_tl.cli.options import AnyModel, AtOnce, Readers, WhereModelRuns
from cnn_tl.errors import DataError, UsageError, printable

if TYPE_CHECKING:
    from cnn_tl.inference.classifier import Answer

Format = Literal["table", "json", "jsonl", "csv"]
_FORMAT_OF_SUFFIX: dict[str, Format] = {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}


def predict(
    model: AnyModel,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES", help="Files, folders and patterns such as '*.jpg'.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to list for each picture.")] = 1,
    format: Annotated[
        Format | None, typer.Option(help="How to write the answers; by default as --output ends, or a table.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    batch_size: AtOnce = 32,
    workers: Readers = None,
    device: WhereModelRuns = "auto",
    recursive: Annotated[bool, typer.Option(help="Look into the folders inside folders too.")] = True,
) -> None:
    """Say what a trained model sees in pictures, one row each; a broken picture gets a row with its error."""
    from cnn_tl.cli.answers import WRITERS, Expected
    from cnn_tl.cli.progress import TerminalObserver
    from cnn_tl.inference.classifier import load
    from cnn_tl.inference.images import find
    from cnn_tl.progress import Observer

    if output is not None:
        _check_output(output)
        format = format or _FORMAT_OF_SUFFIX.get(output.suffix.lower())
    format = format or "table"
    screen = TerminalObserver()
    pictures = list(find(images, recursive=recursive))
    with screen.task("loading the model", None):
        classifier = load(model, device)
    scrolling = output is None and format != "json" and sys.stdout.isatty()  # the rows are progress enough
    answers = classifier.predict(
        pictures,
        top=top,
        batch_size=batch_size,
        workers=workers,
        observer=Observer() if scrolling else screen,
    )
    unread = 0

    def counted() -> Iterator[Answer]:
        nonlocal unread
        for answer in answers:
            unread += answer.error is not None
            yield answer

    with _open_output(output) as stream:
        WRITERS[format](counted(), stream, Expected(pictures, classifier.classes, top))
    if output is not None:
        console.note(f"the answers are in {printable(output)}")
    if unread:
        raise DataError(f"{unread:,} of {len(pictures):,} pictures could not be read; their rows say why")


def _check_output(output: Path) -> None:
    """Refuse to take the name of a picture or of a device, before any work is done."""
    from cnn_tl.data.kinds import has_picture_extension

    if has_picture_extension(output):
        raise UsageError(f"--output {printable(output)} is a name for a picture; choose another one")
    if output.exists() and not output.is_file():
        raise UsageError(f"--output {printable(output)} is no file; without --output, stdout is used")


@contextmanager
def _open_output(output: Path | None) -> Iterator[TextIO]:
    """Yield stdout, or a file that appears under its name when it is whole."""
    if output is None:
        yield sys.stdout
        return
    with (
        files.atomic_path(output) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream,
    ):
        yield stream
