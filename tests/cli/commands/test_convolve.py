"""`cnn-tl convolve`: what it prints and draws, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from cnn_tl.cli.app import app


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = (255, 200, 0)
    Image.fromarray(pixels).save("step.png")
    Path("no.png").write_text("no image")
    Path("short.txt").write_text("1 2\n3\n")
    Path("folder").mkdir()
    Path("dir.png").mkdir()


def test_the_flags_are_exactly_these() -> None:
    command = typer.main.get_command(app).commands["convolve"]  # type: ignore[attr-defined]
    found = {name for p in command.params if p.param_type_name == "option" for name in p.opts}
    assert found == {"--kernel", "--padding", "--stride", "--output", "--json"}


def test_what_is_printed(cli: Any) -> None:
    done = cli("convolve", "step.png", "--kernel", "emboss", "--stride", "2")
    assert done.code == 0, done.err
    assert "step.png, 40 x 60 (height x width)" in done.out
    assert "floor((40 + 2*1 - 3)/2) + 1 = 20" in done.out
    assert "floor((60 + 2*1 - 3)/2) + 1 = 30" in done.out
    assert Path("step-emboss.png").is_file()


def test_json(cli: Any) -> None:
    done = cli("convolve", "step.png", "--kernel", "sobel-x", "--padding", "none", "--output", "out.png", "--json")
    found = json.loads(done.out)
    assert (found["before"], found["after"]) == ([40, 60], [38, 58])
    assert found["arithmetic"]["height"] == "(40 - 3)/1 + 1 = 38"
    grey = round(0.299 * 255 + 0.587 * 200)
    assert found["range"] == [0, 4 * grey]
    assert done.err == ""


def test_the_image_shows_before_kernel_and_after(cli: Any) -> None:
    assert cli("convolve", "step.png", "--kernel", "blur").code == 0
    with Image.open("step-blur.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    yellow = (np.abs(pixels - (255, 200, 0)) < 6).all(-1).any(0)
    middle = len(yellow) // 2
    assert yellow[:middle].any()
    assert yellow[middle:].any()
    assert not yellow[middle - 40 : middle + 40].any()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["absent.png"], 3, "absent.png"),
        (["no.png"], 3, "no.png"),
        (["folder"], 3, "folder"),
        (["step.png", "--kernel", "sobl"], 2, "neither a file nor one of sobel"),
        (["step.png", "--kernel", "short.txt"], 2, "short.txt:2: 1 numbers"),
        (["step.png", "--stride", "0"], 2, "--stride"),
        (["step.png", "--padding", "mirror"], 2, "reflect"),
        (["step.png", "--output", "step.png"], 2, "step.png exists and is not a plot of cnn-tl; remove it"),
        (["step.png", "--output", "folder"], 2, "folder is a folder; name the file, as in --output folder/plot.png"),
        (["step.png", "--output", "photo.jpg"], 2, "the plot is a PNG; choose a name that ends in .png"),
        (["step.png", "--output", "dir.png"], 2, "is a folder; name the file"),
        (["step.png", "--output", "short.txt/out.png"], 5, "short.txt"),
    ],
)
def test_a_mistake_is_one_line(cli: Any, arguments: list[str], code: int, said: str) -> None:
    before = sorted(Path().iterdir())
    done = cli("convolve", *arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.count("\n") == 1
    assert sorted(Path().iterdir()) == before
