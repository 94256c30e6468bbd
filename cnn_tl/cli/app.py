"""The `cnn-tl` command: registers all commands, and turns an error into one line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.text import Text
from typer.exceptions import TyperException

from cnn_tl import __version__
from cnn_tl.cli.commands import (
    benchmark,
    cache,
    compare,
    convolve,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    guide,
    inspect,
    learning_curve,
    lr_find,
    models,
    predict,
    recipes,
    recommend,
    report,
    review,
    serve,
    train,
)
from cnn_tl.cli.terminal import console, help
from cnn_tl.core import background, launch, signals
from cnn_tl.core.cpu import keep_freed_memory, wait_passively
from cnn_tl.core.errors import CnnTlError, ResourceError, Stopped, printable
from cnn_tl.core.imports import missing_line, require_working_directory
from cnn_tl.core.retries import is_transient, refusal

app = typer.Typer(
    name="cnn-tl",
    cls=help.Group,
    help="Transfer learning for image classification: a folder of images in, a proven model out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_TRAIN, _USE, _UNDERSTAND, _MACHINE = "Train a model", "Use it", "Understand it", "This machine"

app.command(cls=help.Command, rich_help_panel=_TRAIN)(train.train)
app.command(cls=help.Command, rich_help_panel=_TRAIN)(doctor.doctor)
app.command("learning-curve", cls=help.Command, rich_help_panel=_TRAIN)(learning_curve.learning_curve)
app.command(cls=help.Command, rich_help_panel=_TRAIN)(recommend.recommend)
app.command("lr-find", cls=help.Command, rich_help_panel=_TRAIN)(lr_find.lr_find)
app.command(cls=help.Command, rich_help_panel=_TRAIN)(models.models)
app.add_typer(recipes.app, name="recipes", rich_help_panel=_TRAIN)
app.command(cls=help.Command, rich_help_panel=_USE)(predict.predict)
app.command(cls=help.Command, rich_help_panel=_USE)(export.export)
app.command(cls=help.Command, rich_help_panel=_USE)(serve.serve)
app.command(cls=help.Command, rich_help_panel=_UNDERSTAND)(evaluate.evaluate)
app.command(cls=help.Command, rich_help_panel=_UNDERSTAND)(report.report)
app.command(cls=help.Command, rich_help_panel=_UNDERSTAND)(review.review)
app.command(cls=help.Command, rich_help_panel=_UNDERSTAND)(compare.compare)
app.command(cls=help.Command, rich_help_panel=_UNDERSTAND)(explain.explain)
app.command(cls=inspect.InOrder, rich_help_panel=_UNDERSTAND)(inspect.inspect)
app.command(cls=help.Command, rich_help_panel=_UNDERSTAND)(convolve.convolve)
app.command(cls=help.Command, rich_help_panel=_MACHINE)(demo.demo)
app.command(cls=help.Command, rich_help_panel=_MACHINE)(benchmark.benchmark)
app.add_typer(cache.app, name="cache", rich_help_panel=_MACHINE)
app.command(cls=help.Command, rich_help_panel=_MACHINE)(guide.guide)


def _version(wanted: bool) -> None:
    if wanted:
        console.say(f"cnn-tl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; only a bug of cnn-tl prints a traceback."""
    try:
        return _run(arguments)
    except CnnTlError as error:
        _print_error(error, arguments)
        return error.exit_code
    except TyperException as error:
        message = _in_plain_words(_one_line(error.format_message()))
        if message and _prints_error(error, arguments):  # empty where a bare command has printed its help
            console.fail(message + _help_hint(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        console.fail(signals.LINE)
        return 128 + (signals.arrived() or signal.SIGINT)
    except BrokenPipeError:
        _discard_stdout()
        return 0
    except SystemExit as stop:  # typer and rich turn a closed stdout into this
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        _discard_stdout()
        return 0
    except Exception as error:  # noqa: BLE001 - a bug of cnn-tl is shown with its traceback
        if line := _lacking_resource(error):
            console.fail(line)
            return ResourceError.exit_code
        console.err.print_exception()
        console.fail(f"this is a bug in cnn-tl {__version__}; please report it with the lines above")
        return CnnTlError.exit_code


def _run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Raises:
        KeyboardInterrupt: a signal came, even if the interrupted code swallowed it.
        Exception: any error of the command.
    """
    if arguments and not _HELP.intersection(arguments):
        require_working_directory()
    try:
        result = app(list(arguments), prog_name="cnn-tl", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, SystemExit) as error:
        if signals.arrived() and not isinstance(error, Stopped):
            raise KeyboardInterrupt from error
        raise
    if result == _INTERRUPTED:
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


_HELP = frozenset(("--help", "-h", "--version"))


_INTERRUPTED = 130
"""What typer returns after a `KeyboardInterrupt`."""


def main() -> None:
    """Run the command line of this process, and exit."""
    signals.raise_on_signals()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller (`>&-`): nobody reads it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the name of a class may not suit the terminal
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    keep_freed_memory()
    wait_passively()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while an error was being printed
        signals.exit_now(signals.arrived() or signal.SIGINT)
    signals.exit_on_signals()
    launch.release_process_group()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
    if signals.arrived() or background.is_busy():
        # Python would end by SIGINT where a signal interrupted an `exec`, and would wait for the import of torch
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _print_error(error: CnnTlError, arguments: Sequence[str]) -> None:
    """Print the line of an error, once if several processes share a run."""
    if not _prints_error(error, arguments):
        return
    if isinstance(error, Stopped):
        console.put(Text(_one_line(error)), console.err)
    else:
        console.fail(_one_line(error))


def _prints_error(error: Exception, arguments: Sequence[str]) -> bool:
    """Return whether this process prints an error; one that does not may wait for the one that does."""
    if not launch.runs_distributed(arguments) or launch.prints(error):
        return True
    return not isinstance(error, Stopped) and launch.prints_after_waiting(error)


_WORDS = {
    " (Possible options: --help)": "",  # suggested for many mistakes
    "Value error, ": "",
    "Input should be a valid integer, unable to parse string as an integer": "it must be a whole number",
    "Input should be a valid number, unable to parse string as a number": "it must be a number",
}
"""Words of typer -> words that help a user."""


def _in_plain_words(message: str) -> str:
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return message


def _one_line(error: object) -> str:
    return printable(" ".join(str(error).split()))


def _lacking_resource(error: Exception) -> str | None:
    """Return what the machine lacks, if that is the cause; torch has several ways to run out of memory."""
    if isinstance(error, ImportError):
        if os.strerror(errno.EMFILE) in str(error):  # the message of the dynamic linker
            return str(refusal(OSError(errno.EMFILE, os.strerror(errno.EMFILE), error.path)))
        return missing_line(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space is left to write {error.filename or 'the output'}; free some and run again"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"the name {printable(str(error.filename))} is too long for this system; choose a shorter one"
    if isinstance(error, OSError) and is_transient(error):
        return str(refusal(error))
    out_of_memory = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or out_of_memory:
        return "there is not enough memory; try a smaller --batch-size or --image-size, or fewer --workers"
    return None


def _help_hint(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _discard_stdout() -> None:
    """Redirect stdout to nothing, so that the flush at exit is silent too (`cnn-tl ... | head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
