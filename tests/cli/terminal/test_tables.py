"""Tables and texts whose words stay whole, whatever they hold and however narrow the screen is."""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from whole_words import WIDTHS, faults_of

from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.answers import Widths, write_table
from cnn_tl.cli.terminal.tables import Grid, wrapped
from cnn_tl.inference.classifier import Answer
from cnn_tl.inference.writers import Columns

LONG = "/home/somebody/images/of/the/last/summer/in/the/mountains/2026-07-14/IMG_20260714_120154.jpg"


def drawn(grid: Grid, width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width, soft_wrap=True, highlight=False)
    screen.print(grid)
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def a_word(source: random.Random) -> str:
    length = source.choice([1, 2, 3, 5, 8, 13, 21, 34, 55, 144])
    return "".join(source.choice("abcdefgh/-_.|猫") for _ in range(length))


@pytest.mark.parametrize("seed", range(40))
def test_any_table(seed: int) -> None:
    source = random.Random(seed)
    columns = [source.choice(["name", "right / images>", "", "share>", "what it is"]) for _ in range(seed % 5 + 1)]
    rows = [
        [" ".join(a_word(source) for _ in range(source.choice([0, 1, 1, 2, 9]))) for _ in columns]
        for _ in range(source.randrange(12))
    ]
    assert faults_of(lambda screen: screen.print(Grid(columns, rows, dense=bool(seed % 2)))) == []


@pytest.mark.parametrize("seed", range(20))
def test_any_text(seed: int) -> None:
    source = random.Random(seed)
    text = "  ".join(a_word(source) for _ in range(30))
    for width in (1, 10, *WIDTHS):
        lines = wrapped(Text(text), width)
        assert " ".join(line.plain for line in lines).split() == text.split()
        assert all(line.cell_len <= width or " " not in line.plain for line in lines)


def test_a_text_keeps_its_own_lines_and_blanks() -> None:
    assert [line.plain for line in wrapped(Text("one\n\n  two  three"), 80)] == ["one", "", "  two  three"]
    assert [line.plain for line in wrapped(Text("one  two"), 5)] == ["one", "two"]
    assert [line.plain for line in wrapped(Text(), 80)] == [""]


def test_a_path_without_room_stands_alone_and_whole() -> None:
    rows = [["mode", "freeze"], ["data", f"{LONG} (train + val)"]]
    assert drawn(Grid(["plan", ""], rows), 60)[3:-1] == [
        " mode   freeze", " data", f"   {LONG}", "   (train + val)",
    ]  # fmt: skip
    named = drawn(Grid(["image", "class", "prob.>"], [[LONG, "pizza", "94.7 %"], ["a.jpg", "steak", "9 %"]]), 80)
    assert named[3:-1] == [f" {LONG}", "         pizza   94.7 %", " a.jpg   steak      9 %"]


def test_what_fits_is_one_line_a_row() -> None:
    assert drawn(Grid(["class", "right / images>"], [["pizza", "24 / 25"], ["x", "1 / 1"]]), 80) == [
        "",
        " class   right / images",
        " ──────────────────────",
        " pizza          24 / 25",
        " x                1 / 1",
        "",
    ]


def test_a_command_goes_on_after_a_backslash(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["cnn-tl", "train", LONG, "--mode", "finetune", "--set", "'a b'", *["--flag"] * 12]
    monkeypatch.setattr(console, "breaks_lines", lambda _: True)
    for width in WIDTHS:
        monkeypatch.setattr(console.out, "_width", width)
        lines = console.command_lines(words)
        assert all(len(line) <= width or len(line.split()) <= 2 for line in lines)
        assert all(line.endswith(" \\") for line in lines[:-1])
        assert " ".join(line.removesuffix("\\").strip() for line in lines) == " ".join(words)
    monkeypatch.setattr(console, "breaks_lines", lambda _: False)
    assert console.command_lines(words) == ["  " + " ".join(words)]


def test_off_a_terminal_a_message_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = "the folder cannot be read " * 20
    console.fail(text)
    assert capsys.readouterr().err == f"error: {text}\n"
    monkeypatch.setattr(console, "breaks_lines", lambda _: True)
    console.fail(text)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 80


FILES = ["a.jpg", LONG, "summer/b c.png", "x" * 70]


def table_of_answers(width: int | None, classes: list[str], top: int) -> list[str]:
    found = [
        Answer(name, classes[0], 0.5, tuple((label, 1 / (rank + 2)) for rank, label in enumerate(classes[:top])), None)
        for name in FILES
    ]
    found.append(Answer(LONG, None, None, (), "the file is cut off after 3 of 90 kB; copy it again from the camera"))
    stream = io.StringIO()
    write_table(found, stream, Widths.of([Path(name) for name in FILES], Columns(classes, top), width))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, None])
def test_of_a_large_set_a_few_classes_are_named(width: int | None) -> None:
    classes = [f"c{k}" for k in range(1_200)]
    answer = Answer("a.jpg", None, 0.1, (("c0", 0.1),), None, "unsure", tuple(classes), 0.5)
    stream = io.StringIO()
    write_table([answer], stream, Widths.of([Path("a.jpg")], Columns(classes, 1, judged=True), width))
    text = " ".join(stream.getvalue().split())
    assert text.endswith("unsure 0.50 c0|c1|c2|c3|c4|c5|c6|c7 and 1,192 more")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("top", [1, 3])
@pytest.mark.parametrize("classes", [["pizza", "steak", "sushi"], ["a rather long name of a class" * 2, "b" * 50, "c"]])
def test_answers_of_predict(width: int, top: int, classes: list[str]) -> None:
    lines, whole = table_of_answers(width, classes, top), table_of_answers(None, classes, top)
    assert "\n".join(lines).split() == "\n".join(whole).split()
    assert all(len(line) <= width or " " not in line.strip() for line in lines)
    assert LONG in [line.strip() for line in lines]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
@pytest.mark.parametrize(
    "arguments", [["predict", f"{LONG}/run", "x"], ["recipes", "show", "no" * 70], ["train", "x", "--recipe", "y" * 90]]
)
def test_a_real_terminal(arguments: list[str]) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "cnn_tl", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=kept | {"TERM": "dumb"}):
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # how Linux says that the other side is closed
            while read := os.read(ours, 65_536):
                text += read
    os.close(ours)
    lines = text.decode().replace("\r", "").splitlines()
    assert len(lines) > 1
    assert all(len(line) <= 80 or " " not in line for line in lines)
    whole = subprocess.run(command, capture_output=True, text=True, env=kept | {"COLUMNS": "2000"}, check=False)
    assert " ".join(lines).split() == (whole.stdout + whole.stderr).split()


def test_no_answer_leaves_no_header_before_the_error() -> None:
    stream = io.StringIO()
    write_table(iter(()), stream, Widths.of(None, Columns(["a", "b"], 1), None))
    assert stream.getvalue() == ""
