"""Every command in a directory that was deleted under the shell: one line, never a traceback."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_group

import cnn_tl
from cnn_tl.cli.app import app
from cnn_tl.core.errors import CnnTlError, ResourceError


def every_command() -> Iterator[list[str]]:
    def below(group: Any, before: list[str]) -> Iterator[list[str]]:
        for name, command in group.commands.items():
            yield from below(command, [*before, name]) if hasattr(command, "commands") else [[*before, name]]

    assert isinstance(app, typer.Typer)
    yield from below(get_group(app), [])


COMMANDS = list(every_command())


@pytest.fixture
def deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()


@pytest.mark.usefixtures("deleted")
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_so_in_one_line(cli: Callable[..., Any], command: list[str], tmp_path: Path) -> None:
    done = cli(*command, tmp_path)
    assert (done.code, done.out) == (5, "")
    said = "error: the working directory no longer exists, or cannot be reached (No such file or directory);"
    assert " ".join(done.err.split()).startswith(said)


@pytest.mark.usefixtures("deleted")
@pytest.mark.parametrize("command", [[], ["--version"], ["train", "--help"], ["cache", "-h"]], ids=" ".join)
def test_help_needs_no_directory(cli: Callable[..., Any], command: list[str]) -> None:
    done = cli(*command)
    assert done.code == (0 if command else 2)
    assert "cnn-tl" in done.out


@pytest.mark.usefixtures("deleted")
@pytest.mark.parametrize("name", ["train", "lr_find", "predict", "evaluate", "explain", "inspect", "load", "export"])
def test_python_gets_one_error_of_ours(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "the working directory no longer exists"
    if name not in ("load", "export"):
        home = importlib.import_module(cnn_tl._MODULES[name])
        with pytest.raises(ResourceError, match=said):
            getattr(home, name)(*[tmp_path] * (1 if name in ("train", "lr_find", "inspect") else 2))
    monkeypatch.delitem(cnn_tl.__dict__, name, raising=False)
    with pytest.raises(ResourceError, match=said):
        getattr(cnn_tl, name)
    assert cnn_tl.CnnTlError is CnnTlError


def test_the_table_has_every_command() -> None:
    assert {"train", "lr-find", "models", "predict", "export", "serve", "evaluate", "explain", "inspect", "convolve",
            "demo", "benchmark"} <= {command[0] for command in COMMANDS}  # fmt: skip
    assert len(COMMANDS) >= 16
