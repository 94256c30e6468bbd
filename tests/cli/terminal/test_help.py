"""Help pages: whole words at any width, tidy defaults, examples that the parser takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer.main

from cnn_tl.cli import app
from cnn_tl.cli.examples import EXAMPLES
from cnn_tl.cli.terminal import console

Cli = Callable[..., Any]
ROOT: Any = typer.main.get_command(app.app)


def commands(group: Any = ROOT, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield before
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*before, name))


COMMANDS = list(commands())


def page(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], width: int) -> str:
    monkeypatch.setattr(console.out, "_width", width)
    monkeypatch.setattr(console, "breaks_lines", lambda _: True)
    done = cli(*command, "--help")
    assert (done.code, done.err) == (0, "")
    return str(done.out)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_page_cuts_a_word(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    whole = page(cli, monkeypatch, command, 2000).split()
    for width in (60, 80, 100, 120):
        text = page(cli, monkeypatch, command, width)
        assert max(map(len, text.splitlines())) <= width
        assert text.replace(" \\\n", "\n").split() == whole


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_page_says_nothing_of_types_and_brackets_defaults_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    text = page(cli, monkeypatch, command, 200)
    for sign in ("<bool>", "<str>", "<path>", "<int", "<list", "default: (", "None", "......"):
        assert sign not in text
    assert "Examples:" in text


def test_choices_and_bounds_are_words_of_their_own(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(page(cli, monkeypatch, ("explain",), 80).split())
    assert "--method METHOD How to explain. One of gradcam, xgradcam, layercam, occlusion, feature-maps," in text
    assert "[0.01 to 1; default: 0.2]" in text
    assert "[at least 1; default: all]" in text
    assert "default: --faithfulness" in text
    assert "Usage: cnn-tl explain [OPTIONS] RUN|BUNDLE [IMAGES]..." in text
    assert "-0, --null " in page(cli, monkeypatch, ("predict",), 80)


def test_every_command_has_two_examples() -> None:
    assert {" ".join(command) for command in COMMANDS} == set(EXAMPLES)
    for name, lines in EXAMPLES.items():
        assert len(set(lines)) >= 2, name
        assert all(len(line) <= 76 for line in lines), name


@pytest.mark.parametrize("line", sorted({line for lines in EXAMPLES.values() for line in lines}))
def test_an_example_is_what_the_parser_takes(line: str) -> None:
    words = shlex.split(line)
    words = words[words.index("cnn-tl") + 1 :]
    words = words[: words.index(">")] if ">" in words else words
    command, path = ROOT, []
    while words and words[0] in getattr(command, "commands", {}):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    assert path
    with command.make_context(path[-1], words, parent=ROOT.make_context("cnn-tl", [*path])):
        pass
    shown = [lines for name, lines in EXAMPLES.items() if line in lines and name in (" ".join(path), path[0], "")]
    assert shown, "it stands under the command that it is of"
