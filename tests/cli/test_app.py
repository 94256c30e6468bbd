"""The one edge: known errors become a line and an exit code, everything else is a bug with its traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cnn_tl.cli import app
from cnn_tl.core import errors
from cnn_tl.core.errors import BadImageError, CnnTlError, Stopped

CODES = {
    "UsageError": 2, "RecipeError": 2, "DataError": 3, "BadImageError": 3, "ArtefactError": 4, "ResourceError": 5,
    "DivergedError": 6, "Stopped": 130,
}  # fmt: skip


def family(kind: type[CnnTlError]) -> Iterator[type[CnnTlError]]:
    for child in kind.__subclasses__():
        yield child
        yield from family(child)


def raised(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)


def made(kind: type[CnnTlError]) -> CnnTlError:
    return BadImageError(None, "what\nand where") if kind is BadImageError else kind("what\nand where")


@pytest.mark.parametrize("kind", list(family(CnnTlError)), ids=lambda kind: kind.__name__)
def test_every_known_error_is_one_line(cli: Any, monkeypatch: pytest.MonkeyPatch, kind: type[CnnTlError]) -> None:
    raised(monkeypatch, made(kind))
    outcome = cli("anything")
    assert outcome.code == CODES[kind.__name__]
    assert outcome.out == ""
    assert outcome.err == ("what and where\n" if kind is Stopped else "error: what and where\n")


def test_help_is_no_guess_at_an_unknown_option(cli: Any) -> None:
    said = cli("lr-find", "images", "--lr", "0.1").err
    assert said == "error: No such option: --lr (see cnn-tl lr-find --help)\n"
    assert "--seed" in cli("lr-find", "images", "--sed", "1").err


def test_the_docstring_draws_the_whole_tree() -> None:
    assert errors.__doc__ is not None
    for kind in family(CnnTlError):
        [line] = [line for line in errors.__doc__.splitlines() if f" {kind.__name__} " in line]
        assert str(CODES[kind.__name__]) in line


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 5, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 5, "not enough memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory.\nTried to"), 5, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "no space is left to write the output"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300), 5, "too long for this system"),
        (OSError(errno.ENOSPC, "No space left on device", "some.file"), 5, "no space is left to write some.file"),
    ],
)
def test_what_the_machine_refuses(
    cli: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str
) -> None:
    raised(monkeypatch, error)
    outcome = cli("anything")
    assert outcome.code == code
    assert outcome.err.startswith("error: ")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_bug_of_ours_shows_itself(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raised(monkeypatch, ZeroDivisionError("division by zero"))
    outcome = cli("anything")
    assert outcome.code == 1
    assert "Traceback" in outcome.err
    assert "this is a bug in cnn-tl" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "'train'"),
        (["train", "--epoch", "3"], "--epoch"),
        (["train", "--mode", "frozen"], "freeze"),
        (["train", "--epochs", "five"], "whole number"),
        (["predict"], "Missing argument"),
        (["recipes", "shwo"], "'show'"),
        (["train", "a", "b"], "(b)"),
        (["train", "--output"], "--output"),
        (["\x1b[31mtrain"], "'\\x1b[31mtrain'"),
        (["train", "--\x1b[31m\udcff\u202e"], "--\\x1b[31m\\udcff\\u202e"),
    ],
)
def test_a_mistyped_command_is_one_line(cli: Any, arguments: list[str], said: str) -> None:
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


@pytest.mark.parametrize("arguments", [[], ["recipes"]])
def test_a_bare_command_prints_its_help_and_no_empty_error(cli: Any, arguments: list[str]) -> None:
    outcome = cli(*arguments)
    assert (outcome.code, outcome.err) == (2, "")
    assert "Usage: cnn-tl" in outcome.out


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cnn_tl", *arguments], capture_output=True, text=True, check=False, **options
    )


def test_help_loads_nothing_heavy() -> None:
    """For the real entry point; test_architecture covers more commands."""
    command = [sys.executable, "-X", "importtime", "-m", "cnn_tl", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"cnn_tl", "typer"} <= loaded
    assert not {"torch", "torchvision", "timm", "numpy", "PIL", "pydantic", "sklearn", "onnxruntime"} & loaded


@pytest.mark.parametrize("arguments", [["--help"], ["recipes", "list"], ["recipes", "schema"]])
def test_a_closed_stdout_is_quiet(arguments: list[str]) -> None:
    shell = f"{sys.executable} -m cnn_tl {' '.join(arguments)} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code"), [("recipes list >&-", 0), ("recipes schema >&-", 0), ("recipes show absent 2>&-", 2)]
)
def test_a_stream_that_the_caller_has_closed_is_quiet(arguments: str, code: int) -> None:
    shell = f"{sys.executable} -m cnn_tl {arguments}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (code, "")


def test_off_a_terminal_there_is_no_colour() -> None:
    done = process("recipes", "show", "absent")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr + process("--help").stdout


@pytest.mark.parametrize(("variable", "coloured"), [("FORCE_COLOR", True), ("NO_COLOR", False)])
def test_colour_can_be_asked_for(variable: str, coloured: bool) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    done = process("recipes", "show", "absent", env=kept | {variable: "1", "TERM": "xterm-256color"})
    assert done.returncode == 2
    assert ("\x1b" in done.stderr) == coloured


def test_version() -> None:
    assert process("--version").stdout.startswith("cnn-tl ")
