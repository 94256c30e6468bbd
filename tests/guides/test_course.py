"""The course in English and in Spanish: the same commands, Python that prints what is shown, answers that are right."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from documents import blocks_of

from cnn_tl import guides
from cnn_tl.anatomy.layer_notation import parse_input, parse_layer, walk

FOLDER = Path(guides.__file__).parent
LANGUAGES = ("course", "curso")
ANSWERS = {
    3: ("10x10", [("conv", "3x3")], "8 x 8"),
    4: ("9x9", [("conv", "3x3 s2")], "4 x 4"),
    5: ("32x32x3", [("conv", "10@5x5 s1 p2")], "32 x 32 x 10"),
    6: ("16x16x3", [("conv", "10@5x5 s1 p2"), ("pool", "2x2")], "8 x 8 x 10"),
    7: ("7x7", [("conv", "3x3 s3")], "2 x 2"),
}
"""Exercise -> input, layers, size of the output as the answer writes it."""


def test_both_languages_show_the_same_commands() -> None:
    english, spanish = ([b.lines for b in blocks_of(FOLDER / f"{n}.md") if b.language == "console"] for n in LANGUAGES)
    assert len(english) > 10
    assert english == spanish


@pytest.mark.parametrize("name", LANGUAGES)
def test_python_prints_what_stands_beneath_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    compared = 0
    for block, following in pairwise(blocks_of(FOLDER / f"{name}.md")):
        if block.language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, f"{name}.md:{block.line}", "exec"), names)
        if following.language == "text":
            assert printed.getvalue() == following.text
            compared += 1
    assert compared == 4


@pytest.mark.parametrize("name", LANGUAGES)
@pytest.mark.parametrize("number", ANSWERS)
def test_an_answer_is_what_inspect_computes(name: str, number: int) -> None:
    shape, layers, written = ANSWERS[number]
    steps = walk(parse_input(shape), [parse_layer(kind, text) for kind, text in layers])
    height, width, channels = steps[-1].output
    assert written == f"{height} x {width}" + (f" x {channels}" if channels > 1 else "")
    text = (FOLDER / f"{name}.md").read_text("utf-8")
    answer = " ".join(re.findall(rf"^{number}\. (.*(?:\n +.*)*)", text, re.MULTILINE)[-1].split())
    assert written in answer
    if channels > 1:
        assert f"{sum(step.parameters for step in steps)} par" in answer
