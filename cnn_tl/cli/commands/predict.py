"""`cnn-tl predict`: the classes that a trained model gives to images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from cnn_tl.cli.options import (
    AnyModel,
    ChosenBatchSize,
    MaxError,
    ReadingThreads,
    WhereModelRuns,
    WithheldUnknown,
    note_unused_gpu,
)
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.formatting import parse_share, unreadable

if TYPE_CHECKING:
    from cnn_tl.core.progress import Observer
    from cnn_tl.inference.append_answers import Asked
    from cnn_tl.inference.classifier import Answer
    from cnn_tl.inference.predict import Destination
    from cnn_tl.inference.writers import Columns

Format = Literal["table", "json", "jsonl", "csv", "parquet", "html"]
_FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".html": "html",
}  # fmt: skip
_STDIN = "-"

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES", help="Files, folders and patterns such as '*.jpg'; or - for paths on stdin, one per line."
    ),
]
Top = Annotated[int, typer.Option(min=1, help="How many classes to list for each image.")]
AnswerFormat = Annotated[
    Format | None, typer.Option(help="Format of the answers.", show_default="by the suffix of --output, else table")
]
Output = Annotated[Path | None, typer.Option(help="Write to this file instead of stdout.")]
Append = Annotated[
    bool, typer.Option("--append", help="Add to --output (CSV or JSON lines), and skip images that have a row there.")
]
Null = Annotated[
    bool, typer.Option("--null", "-0", help="Paths on stdin end with a NUL byte, as find -print0 writes them.")
]


def predict(
    model: AnyModel,
    images: Images,
    top: Top = 1,
    format: AnswerFormat = None,
    output: Output = None,
    append: Append = False,
    null: Null = False,
    max_error: MaxError = None,
    unknown: WithheldUnknown = None,
    batch_size: ChosenBatchSize = None,
    workers: ReadingThreads = None,
    device: WhereModelRuns = "auto",
    recursive: Annotated[bool, typer.Option(help="Search folders inside folders too.")] = True,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Predict the class of images, one row each; an unreadable image gets a row with the reason."""
    from cnn_tl.cli.terminal.bars import TerminalObserver, WarningsOnly
    from cnn_tl.core.cpu import default_workers
    from cnn_tl.data.reading.ahead import by_processes
    from cnn_tl.inference.loading import load
    from cnn_tl.inference.predict import predict_into
    from cnn_tl.inference.writers import Columns

    from_stdin = _is_stdin(images, null)
    format = _format_of(output, format, json)
    promised = None if max_error is None else parse_share(max_error, "--max-error")
    foreign = None if unknown is None else parse_share(unknown, "--unknown")
    _check(output, format, append, model)
    paths = _paths(images, output, from_stdin=from_stdin, null=null, recursive=recursive)
    note_unused_gpu(model, device)
    observer = TerminalObserver()
    with observer.task("loading the model", None):
        many = not isinstance(paths, list) or len(paths) >= (batch_size or 32)
        at_once = default_workers() if workers is None else workers
        ahead = isinstance(paths, list) and by_processes(at_once, len(paths))
        classifier = load(model, device, many=many, in_background=ahead, batch_size=batch_size)
    rule = classifier.rule(promised, foreign)
    scrolling = output is None and format != "json" and sys.stdout.isatty()  # the rows show the progress
    columns = Columns(classifier.classes, top, judged=classifier.thresholds is not None)
    asked = {"max_error": promised, "unknown": foreign}
    with _destination(output, format, append, model, columns, paths, observer, asked) as destination:
        written = predict_into(
            destination,
            classifier,
            paths,
            top=top,
            batch_size=batch_size,
            workers=workers,
            rule=rule,
            observer=WarningsOnly() if scrolling else observer,
        )
    if output is not None:
        skipped = f"; {written.skipped:,} were there already" if append else ""
        console.note(f"the answers are in {printable(output)}{skipped}")
    if not written.images:
        raise DataError("stdin named no image")
    if written.unreadable:
        raise DataError(unreadable(written.unreadable, written.images))


def _is_stdin(images: Sequence[str], null: bool) -> bool:
    """Say whether the paths come from stdin.

    Raises:
        UsageError: `-` and other images, or `--null` without `-`, or stdin is closed.
    """
    if _STDIN in images and len(images) > 1:
        raise UsageError("- reads the paths from stdin, so it excludes other images; a file named - is ./-")
    if null and _STDIN not in images:
        raise UsageError("--null concerns paths on stdin; give - instead of IMAGES")
    if _STDIN in images and sys.stdin is None:
        raise UsageError("- reads the paths from stdin, which is closed; pipe one path per line into it")
    return _STDIN in images


def _format_of(output: Path | None, format: Format | None, json: bool) -> Format:
    if json and format not in (None, "json"):
        raise UsageError(f"--json contradicts --format {format}; leave one of them out")
    by_suffix = _FORMAT_OF_SUFFIX.get(output.suffix.lower() if output else "", "table")
    return format or ("json" if json else by_suffix)


def _check(output: Path | None, format: Format, append: bool, model: Path) -> None:
    """Refuse an output that cannot be written, before any work is done."""
    from cnn_tl.inference.safe_output import require_harmless
    from cnn_tl.inference.writers import require_jinja2, require_pyarrow
    from cnn_tl.reporting.own_pages import require_page_place

    if append and (output is None or format not in ("csv", "jsonl")):
        raise UsageError("--append adds rows to a file: give --output FILE.csv or FILE.jsonl")
    if format == "parquet":
        if output is None:
            raise UsageError("--format parquet needs a file: give --output FILE.parquet")
        require_pyarrow()
    if format == "html":
        if output is None and sys.stdout.isatty():
            raise UsageError("--format html writes a page: give --output FILE.html")
        require_jinja2()
    if output is not None:
        require_harmless(output, model)
        if format == "html":
            require_page_place(output)


def _paths(
    images: Sequence[str], output: Path | None, *, from_stdin: bool, null: bool, recursive: bool
) -> list[Path] | Iterator[Path]:
    """Return the files that are named, or an iterator over those that arrive on stdin."""
    from cnn_tl.inference.inputs import find, paths_from
    from cnn_tl.inference.safe_output import refuse_as_output

    if from_stdin:
        return refuse_as_output(output, paths_from(0, b"\0" if null else b"\n"))
    return list(refuse_as_output(output, find(images, recursive=recursive)))


def _destination(
    output: Path | None,
    format: Format,
    append: bool,
    model: Path,
    columns: Columns,
    paths: list[Path] | Iterator[Path],
    observer: Observer,
    asked: Asked,
) -> AbstractContextManager[Destination]:
    """Return where the answers go: to stdout, to a new file, or to the end of an earlier one."""
    from cnn_tl.inference.loading import digest
    from cnn_tl.inference.predict import Destination, end_of_file, new_file, text_file
    from cnn_tl.inference.writers import write_parquet

    if output is None:
        screen = console.out.width if console.breaks_lines(console.out) else None
        write = _stream_writer(format, columns, paths, screen)
        return nullcontext(Destination(lambda answers: write(answers, sys.stdout)))
    if append:
        return end_of_file(output, format, digest(model), columns, observer, asked)
    if format == "parquet":
        return new_file(output, lambda answers, path: write_parquet(answers, path, columns))
    columns = replace(columns, flushed=False)  # nobody reads the file before it is whole
    return new_file(output, text_file(_stream_writer(format, columns, paths, None)))


def _stream_writer(
    format: Format, columns: Columns, paths: list[Path] | Iterator[Path], screen: int | None
) -> Callable[[Iterable[Answer], TextIO], None]:
    from cnn_tl.cli.terminal.answers import Widths, write_table
    from cnn_tl.inference.writers import WRITERS

    if format == "table":
        widths = Widths.of(paths if isinstance(paths, list) else None, columns, screen)
        return lambda answers, stream: write_table(answers, stream, widths)
    return lambda answers, stream: WRITERS[format](answers, stream, columns)
