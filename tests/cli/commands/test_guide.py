"""`cnn-tl guide`: the list of topics, and a guide as a terminal, a pager and a pipe get it."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import cnn_tl
from cnn_tl import guides
from cnn_tl.cli.terminal.markdown import Document

Cli = Callable[..., Any]
HEAVY = ("torch", "timm", "numpy", "PIL", "yaml")


def drawn(text: str, width: int = 80) -> list[str]:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(Document(text), crop=False)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_lists_topics_with_what_they_are_about(cli: Cli) -> None:
    done = cli("guide")
    assert done.code == 0
    words = " ".join(done.out.split())
    for topic in guides.topics():
        assert f" {topic} {guides.read(topic).summary}" in words
    assert done.err == "read a guide: cnn-tl guide TOPIC\n"


def test_a_pipe_gets_the_drawn_text_without_colours(cli: Cli) -> None:
    done = cli("guide", "reference")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "Reference"
    assert " option                    meaning" in lines
    assert not re.search(r"\x1b|<!--|\*\*|```|\| ---| \n", done.out)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("topic", guides.topics())
def test_no_guide_is_cut_or_too_wide(topic: str) -> None:
    text = guides.read(topic).text
    whole = sorted(word for line in drawn(text, 10_000) for word in line.split() if word.strip("─"))
    for width in (80, 100, 120):
        lines = drawn(text, width)
        assert sorted(word for line in lines for word in line.split() if word.strip("─")) == whole
        assert [line for line in lines if len(line) > width and len(line.split()) > 1] == []


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("referense", "the nearest: reference"),
        ("CACHES", "the nearest: cache"),
        ("zzz", "cnn-tl guide lists them"),
        ("../guides/cache", "cnn-tl guide lists them"),
        ("export", "the nearest: exporting"),
    ],
)
def test_an_unknown_topic_is_refused_with_the_nearest(cli: Cli, asked: str, hint: str) -> None:
    done = cli("guide", asked)
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(rf"error: there is no guide '{re.escape(asked)}'; .*{hint}.*\n", done.err)


def test_links_images_and_comments_become_words() -> None:
    text = (
        "# T\n\nSee [how](freeze.md#heads), [paper](https://a.b/c) and [code](../x.py).\n\n"
        "<!-- not run: no\nreason -->\n![A dog, *seen*.](dog.png)\n"
    )
    assert drawn(text) == [
        "T", "", "See how (cnn-tl guide freeze), paper (https://a.b/c) and code.", "", "[image: A dog, seen.]",
    ]  # fmt: skip


def test_code_keeps_its_lines_and_tables_their_words() -> None:
    long = "x" * 90
    text = f"```console\n$ run {long} \\\n    on\n out [bold]\n```\n\n"
    text += "| a | n |\n|---|--:|\n| `b\\|c` | 1 |\n| d_e | 10 |\n"
    assert drawn(text) == [
        f"  $ run {long} \\", "      on", "   out [bold]", "", " a      n", " ────────", " b|c    1", " d_e   10",
    ]  # fmt: skip


def test_a_list_in_a_list_and_prose_that_is_not_too_wide() -> None:
    lines = drawn("# T\n\n- one **two**\n  - three\n\n" + "word " * 60, width=200)
    assert lines[:5] == ["T", "", " • one two", "    • three", ""]
    assert max(map(len, lines)) == 99


def test_numbers_of_a_list_have_dots_and_stand_below_each_other() -> None:
    lines = drawn("\n".join(["# T\n", *(f"{number}. item {number}" for number in range(1, 11)), "    goes on"]), 12)
    assert lines[2:4] == ["  1. item 1", "  2. item 2"]
    assert lines[-2:] == [" 10. item 10", "     goes on"]
    assert drawn("# T\n\n1. one")[2] == " 1. one"


def on_a_terminal(*arguments: str, keys: bytes = b"", **environment: str) -> tuple[int, str]:
    """Run the command on a pseudo-terminal of 80 columns and 24 lines; press keys when something is shown."""
    master, slave = pty.openpty()
    subprocess.run(["stty", "cols", "80", "rows", "24"], stdin=slave, check=True)
    root = str(Path(cnn_tl.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if name not in ("PAGER", "LESS", "NO_COLOR", "COLUMNS")}
    child = subprocess.Popen(
        [sys.executable, "-m", "cnn_tl", *arguments], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        env=kept | {"PYTHONPATH": root, "TERM": "xterm-256color"} | environment,
    )  # fmt: skip
    os.close(slave)
    seen = b""
    while select.select([master], [], [], 30)[0]:
        try:
            more = os.read(master, 65_536)
        except OSError:  # the other end is closed
            break
        if not more:
            break
        seen += more
        if keys and b"Reference" in seen:
            os.write(master, keys)
            keys = b""
    os.close(master)
    return child.wait(30), seen.decode()


def test_a_terminal_gets_colours_and_a_pager(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text(f"#!{sys.executable}\nimport os, sys\nprint('paged', os.environ['LESS'], sys.stdin.read())\n")
    pager.chmod(0o755)
    code, seen = on_a_terminal("guide", "reference", PAGER=str(pager))
    assert code == 0
    assert seen.startswith("paged -FRX ")
    assert "\x1b[" in seen


def test_without_a_pager_it_is_printed_and_a_wrong_one_is_named() -> None:
    code, seen = on_a_terminal("guide", "reference", PAGER="")
    assert (code, "export.min_agreement" in seen) == (0, True)
    code, seen = on_a_terminal("guide", "reference", PAGER="/no/such/pager")
    assert code == 5
    assert "the pager /no/such/pager cannot be started (No such file or directory); unset PAGER" in " ".join(
        seen.split()
    )


@pytest.mark.skipif(not Path("/usr/bin/less").exists(), reason="less is not installed")
@pytest.mark.parametrize("keys", [b"q", b"\x03q"], ids=["q", "Ctrl-C, q"])
def test_less_is_left_in_the_middle(keys: bytes) -> None:
    code, seen = on_a_terminal("guide", "reference", keys=keys)
    assert code == 0
    assert "Traceback" not in seen
    assert "export.min_agreement" not in seen, "only the first page was shown"


def test_it_needs_only_what_every_command_needs() -> None:
    code = "import sys\nfrom cnn_tl.cli import app\nassert app.run(['guide', 'cache']) == 0\n"
    code += f"assert not set({HEAVY}) & set(sys.modules)"
    root = str(Path(cnn_tl.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_topic_in_capitals_is_the_same_topic(cli: Cli) -> None:
    assert cli("guide", "DATA").out == cli("guide", "data").out
