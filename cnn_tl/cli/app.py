"""The `cnn-tl` command: the commands tied together, and the one edge where errors become a line and an exit code."""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cnn_tl import __version__, distributed
from cnn_tl.cli import benchmark, cache, console, demo, explain, export, lr_find, models, predict, recipes, train
from cnn_tl.errors import CnnTlError, ResourceError, Stopped, printable
from cnn_tl.runtime import keep_freed_memory, wait_passively

app = typer.Typer(
    name="cnn-tl",
    help="Transfer learning for image classification: a folder of pictures in, a proven model out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train.train)
app.command()(predict.predict)
app.command()(explain.explain)
app.command()(export.export)
app.command("lr-find")(lr_find.lr_find)
app.command()(models.models)
app.command()(demo.demo)
app.command()(benchmark.benchmark)
app.add_typer(recipes.app, name="recipes")
app.add_typer(cache.app, name="cache")


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
    """Run one command line and return its exit code; nothing but a bug of ours prints a traceback."""
    try:
        result = app(list(arguments), prog_name="cnn-tl", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except CnnTlError as error:
        _tell(error)
        return error.exit_code
    except TyperException as error:
        message = _one_line(error.format_message())
        if message and _has_the_word(error):  # there is none where a bare command has printed its help
            console.fail(message + _help_hint(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        console.fail("interrupted")
        return 130
    except BrokenPipeError:
        _discard_stdout()
        return 0
    except SystemExit as stop:  # typer and rich turn a closed stdout into this
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        _discard_stdout()
        return 0
    except Exception as error:  # noqa: BLE001 - the last edge: a bug of ours is shown whole
        if refusal := _refusal_of_the_machine(error):
            console.fail(refusal)
            return ResourceError.exit_code
        console.err.print_exception()
        console.fail(f"this is a bug in cnn-tl {__version__}; please report it with the lines above")
        return CnnTlError.exit_code


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a class may be called what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    keep_freed_memory()
    wait_passively()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
    sys.exit(code)


def _tell(error: CnnTlError) -> None:
    """Print the line of an error, once where several processes make one run."""
    if not _has_the_word(error):
        return
    if isinstance(error, Stopped):
        console.err.print(_one_line(error), markup=False)
    else:
        console.fail(_one_line(error))


def _has_the_word(error: Exception) -> bool:
    """Say whether this process prints the line of an error; one that does not may wait for the one that does."""
    if distributed.speaks(error):
        return True
    return not isinstance(error, Stopped) and distributed.leave_the_word(error)


def _one_line(error: object) -> str:
    return printable(" ".join(str(error).split()))


def _refusal_of_the_machine(error: Exception) -> str | None:
    """Say what the machine lacks, if that is what went wrong; torch has several ways to run out of memory."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space is left to write {error.filename or 'the output'}; free some and run again"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"the name {printable(str(error.filename))} is too long for this system; give a shorter one"
    out_of_memory = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or out_of_memory:
        return "there is not enough memory; try a smaller --batch-size or --image-size, or fewer --workers"
    return None


def _help_hint(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _discard_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own flush at exit is quiet too (`cnn-tl ... | head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
