"""`cnn-tl recommend` as a user meets it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnn_tl.advising.recommend.candidates import Candidate
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.recommendation import train_words

SIZE = ("--image-sizes", "64", "--device", "cpu")


@pytest.fixture
def photos(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path / "my photos", {"a": 20, "b": 20})


@pytest.fixture
def pair(tiny_weights: Path, tmp_path: Path) -> str:
    """Return two names of one network, whose weights are in two files."""
    (tmp_path / "other.safetensors").write_bytes(tiny_weights.read_bytes())
    return f"test_resnet={tiny_weights},test_resnet={tmp_path / 'other.safetensors'}"


def test_table_reason_and_a_command_that_runs(
    cli: Callable[..., Any], photos: Path, pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("recommend", photos, "--models", pair, *SIZE, "--set", "run.report=false")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    table = lines[: lines.index("", 1)]
    assert max(map(len, table)) < 80
    assert sum("test_resnet" in line for line in table) == 2
    assert "5-fold cross-validation, head auto, 32 of 32 training images" in done.out
    assert "cannot be told apart from the best: test_resnet" in done.out
    assert "the features are cached" in done.out
    (reason,) = [line for line in lines if line.startswith("recommended: ")]
    assert "test_resnet" in reason
    assert lines[-2] == "next:"
    words = shlex.split(lines[-1])
    assert words[:5] == ["cnn-tl", "train", str(photos), "--model", "test_resnet"]
    assert words[-4:] == ["--device", "cpu", "--set", "run.report=false"]
    assert cli(*words[1:]).code == 0


def test_json(cli: Callable[..., Any], photos: Path, pair: str) -> None:
    done = cli("recommend", photos, "--models", pair, *SIZE, "--limit", "20", "--json")
    found = json.loads(done.out)
    assert len(found["rows"]) == 2
    assert [row["recommended"] for row in found["rows"]].count(True) == 1
    assert found["chosen"]["model"] == "test_resnet"
    assert (found["images"], found["total"], found["classes"]) == (20, 32, 2)
    assert shlex.split(found["command"])[:3] == ["cnn-tl", "train", str(photos)]


def test_parameters_where_there_is_room(
    cli: Callable[..., Any], photos: Path, pair: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", lambda: 120)
    done = cli("recommend", photos, "--models", pair, *SIZE)
    assert done.out.splitlines()[1].split()[-2:] == ["parameters", "train"]


def test_the_command_is_quoted() -> None:
    words = train_words("my photos", Candidate("resnet18", "a b.pth", 288), ["--set", "data.groups=^(x y)"])
    assert shlex.split(" ".join(words)) == [
        "cnn-tl", "train", "my photos", "--model", "resnet18", "--weights", "a b.pth", "--image-size", "288",
        "--set", "data.groups=^(x y)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--budget", "soon"], 2, "'soon' is not a duration; write for example 90s, 5m or 1h"),
        (["--image-sizes", "224,big"], 2, "write sides in pixels"),
        (["--image-sizes", "3"], 2, "--image-sizes: image_size: got 3"),
        (["--models", "resnet81"], 2, "there is no model 'resnet81'"),
        (["--models", "resnet18=missing.pth"], 4, "missing.pth is not a file"),
    ],
)
def test_mistakes(cli: Callable[..., Any], photos: Path, arguments: list[str], code: int, message: str) -> None:
    done = cli("recommend", photos, *arguments)
    assert done.code == code
    assert message in done.err
    assert done.out == ""


def test_no_folder(cli: Callable[..., Any], tmp_path: Path) -> None:
    assert cli("recommend", tmp_path / "nowhere").code == 3
