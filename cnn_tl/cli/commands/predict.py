"""`cnn-tl predict`: what a trained model sees in images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnn_tl.cli.options import AnyModel, AtOnce, Readers, WhereModelRuns
from cnn_tl.cli.terminal import console
from cnn_tl.core import files
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.formatting import unreadable

if TYPE_CHECKING:
    from cnn_tl.inference.append import Answered
    from cnn_tl.inference.classifier import Answer
    from cnn_tl.inference.writers import Expected

Format = Literal["table", "json", "jsonl", "csv", "parquet"]
_FORMAT_OF_SUFFIX: dict[str, Format] = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_STDIN = "-"


def predict(
    model: AnyModel,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES",
            help="Files, folders and patterns such as '*.jpg'; or - for paths from stdin, one a line.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to list for each image.")] = 1,
    format: Annotated[
        Format | None, typer.Option(help="How to write the answers; by default as --output ends, or a table.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Go on with --output (CSV, JSON lines): skip what it has answered already.")
    ] = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Paths from stdin end with a NUL byte, as find -print0 writes them.")
    ] = False,
    batch_size: AtOnce = 32,
    workers: Readers = None,
    device: WhereModelRuns = "auto",
    recursive: Annotated[bool, typer.Option(help="Look into the folders inside folders too.")] = True,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Say what a trained model sees in images, one row each; a broken image gets a row with its error."""
    from cnn_tl.cli.terminal.bars import TerminalObserver, WarningsOnly
    from cnn_tl.inference.classifier import load
    from cnn_tl.inference.inputs import find, listed
    from cnn_tl.inference.safe_output import never, require_harmless
    from cnn_tl.inference.writers import Expected

    live = _is_stdin(images, null)
    if json and format not in (None, "json"):
        raise UsageError(f"--json contradicts --format {format}; leave one of them out")
    by_name = _FORMAT_OF_SUFFIX.get(output.suffix.lower() if output else "", "table")
    format = format or ("json" if json else by_name)
    _check(output, format, append)
    if output is not None:
        require_harmless(output, model)
    screen = TerminalObserver()
    paths = None if live else list(never(output, find(images, recursive=recursive)))
    with screen.task("loading the model", None):
        classifier = load(model, device, many=paths is None or len(paths) >= batch_size)
    scrolling = output is None and format != "json" and sys.stdout.isatty()  # the rows are progress enough
    rows = unread = 0

    def counted(answers: Iterable[Answer]) -> Iterator[Answer]:
        nonlocal rows, unread
        for answer in answers:
            rows += 1
            unread += answer.error is not None
            yield answer

    with _destination(output, format, append, model, Expected(paths, classifier.classes, top)) as (write, before):
        left = None if paths is None else list(before.unanswered(paths))
        answers = classifier.answers(
            before.unanswered(never(output, listed(0, b"\0" if null else b"\n"))) if left is None else left,
            total=None if left is None else len(left),
            live=live,
            top=top,
            batch_size=batch_size,
            workers=workers,
            observer=WarningsOnly() if scrolling else screen,
        )
        write(counted(answers))
    if output is not None:
        already = f", {before.skipped:,} of them from before" if append else ""
        console.note(f"the answers are in {printable(output)}{already}")
    if not rows + before.skipped:
        raise DataError("no path came through stdin")
    if unread := unread + before.skipped_failures:
        raise DataError(unreadable(unread, rows + before.skipped))


def _is_stdin(images: Sequence[str], null: bool) -> bool:
    """Say whether stdin names the images."""
    if _STDIN in images and len(images) > 1:
        raise UsageError("- takes the paths from stdin and stands alone; a file of that name is ./-")
    if null and _STDIN not in images:
        raise UsageError("--null is about paths from stdin; give - in place of IMAGES")
    if _STDIN in images and sys.stdin is None:
        raise UsageError("- takes the paths from stdin, which is closed here; pipe one path a line into it")
    return _STDIN in images


def _check(output: Path | None, format: Format, append: bool) -> None:
    """Refuse, before any work is done, what the answers cannot be written to."""
    if append and (output is None or format not in ("csv", "jsonl")):
        raise UsageError("--append goes on with a file of rows: give --output FILE.csv or FILE.jsonl")
    if format == "parquet":
        from cnn_tl.inference.parquet import require_pyarrow

        if output is None:
            raise UsageError("--format parquet needs a file: give --output FILE.parquet")
        require_pyarrow()


@contextmanager
def _destination(
    output: Path | None, format: Format, append: bool, model: Path, expected: Expected
) -> Iterator[tuple[Callable[[Iterable[Answer]], None], Answered]]:
    """Yield what writes the answers, and what is there already; a file appears whole, or grows with --append."""
    from cnn_tl.inference.append import Answered, appending, forget
    from cnn_tl.inference.writers import WRITERS

    if output is None:
        if console.breaks_lines(console.out):
            expected = replace(expected, columns_wide=console.out.width)
        yield lambda answers: WRITERS[format](answers, sys.stdout, expected), Answered()
    elif append:
        from cnn_tl.inference.classifier import digest

        with appending(output, format, digest(model), expected) as (stream, before):
            expected = replace(expected, begun=before.end > 0)
            yield lambda answers: WRITERS[format](answers, stream, expected), before
    else:
        with files.atomic_path(output) as temporary:
            with files.disk_errors(output):
                yield lambda answers: _write_new(answers, temporary, format, expected), Answered()
            forget(output)


def _write_new(answers: Iterable[Answer], path: Path, format: Format, expected: Expected) -> None:
    from cnn_tl.inference.writers import WRITERS

    if format == "parquet":
        from cnn_tl.inference.parquet import write_parquet

        write_parquet(answers, path, expected)
        return
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        WRITERS[format](answers, stream, expected)
