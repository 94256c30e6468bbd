from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Cli = Callable[..., Any]


@pytest.fixture
def words(tmp_path: Path, make_images: Callable[..., Path], tiny_weights: Path) -> list[object]:
    data = make_images(tmp_path / "data", {"ash": 12, "birch": 12})
    return [data, "--model", "test_resnet", "--weights", tiny_weights, "--image-size", 64, "--batch-size", 8]


def test_a_rate_is_suggested_and_drawn(
    cli: Cli, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words += ["--set", "train.head_start=random", "--set", "run.precision=fp32"]  # no stopwatch chooses
    outcome = cli("lr-find", *words, "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["rates"][0] < found["suggestion"] < found["rates"][-1] <= 1
    assert len(found["rates"]) == len(found["losses"])
    with Image.open(tmp_path / "lr-find.png") as image:
        assert image.width >= 600
    assert not (tmp_path / "runs").exists()
    again = json.loads(cli("lr-find", *words, "--json", "--workers", 3, "--device", "cpu").out)
    assert again == found

    result = cli("train", *words, "--mode", "finetune", "--lr", "auto", "--epochs", 1, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["facts"]["lr"] == pytest.approx(found["suggestion"])


def test_under_a_head_that_is_fitted_already_a_rate_is_found_too(
    cli: Cli, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = cli("lr-find", *words)
    assert outcome.code == 0, outcome.err
    first, second, third, *_ = outcome.out.splitlines()
    assert first.startswith("learning rate ")
    assert first.endswith(": steepest, the default of mode finetune")
    assert second.endswith(": valley")
    assert third == "the plot is in lr-find.png"
    assert (tmp_path / "lr-find.png").exists()


def test_the_command_at_the_end_repeats_what_was_given(
    cli: Cli, words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate is that of these settings; with others it would be another."""
    monkeypatch.chdir(tmp_path)
    changes = ["--set", "train.head_start=random", "--set", "train.weight_decay=0.1", "--set", "augment.flip=false"]
    given = ["--recipe", "finetune", *changes, "--workers", 0, "--device", "cpu", "--seed", 3]
    spaced = (tmp_path / "data").rename(tmp_path / "my data")
    outcome = cli("lr-find", spaced, *words[1:], *given)
    assert outcome.code == 0, outcome.err
    *_, rest = outcome.out.partition("next:")
    program, *command, flag, rate = shlex.split(rest)
    assert (program, command[:4], flag) == ("cnn-tl", ["train", str(spaced), "--mode", "finetune"], "--lr")
    assert pairs(command[4:]) == pairs([*words[1:], *given])
    assert cli(*command, flag, rate, "--dry-run").code == 0


def pairs(words: list[Any]) -> list[tuple[str, str]]:
    return sorted((str(flag), str(value)) for flag, value in zip(words[::2], words[1::2], strict=True))


def test_modes_that_begin_with_a_head_have_no_rate_to_find(cli: Cli, words: list[object]) -> None:
    assert cli("lr-find", *words, "--mode", "freeze").code == 2


@pytest.mark.parametrize("rate", ["fast", "-1", "0", "nan"])
def test_a_rate_that_is_none_is_refused(cli: Cli, words: list[object], rate: str) -> None:
    outcome = cli("train", *words, "--mode", "finetune", "--lr", rate)
    assert outcome.code == 2
    assert "--lr: train.lr: got" in outcome.err
    assert "allowed auto, or a number above 0" in outcome.err


def test_what_is_wrong_at_once_is_said_before_torch_is_loaded(words: list[object], tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.touch()
    typo = ["--set", "train.class_weights={oak: 2}"]
    lines = [
        ["lr-find", "nowhere"],
        ["lr-find", *words, "--output", folder], ["lr-find", *words, "--output", file / "x.png"],
        ["lr-find", *words, *typo], ["train", *words, "--mode", "finetune", *typo],
    ]  # fmt: skip
    code = (
        "import json, sys\nfrom cnn_tl.cli import app\n"
        "for line in json.loads(sys.argv[1]):\n    print(app.run(line), 'torch' in sys.modules)"
    )
    given = json.dumps([[str(word) for word in line] for line in lines])
    done = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == [f"{code} False" for code in (3, 2, 5, 2, 2)]
    missing, is_folder, in_file, *typos = done.stderr.splitlines()
    assert "nowhere" in missing
    assert is_folder == f"error: --output {folder} is a folder; name the file, as in --output {folder}/plot.png"
    assert in_file.startswith("error: cannot write ")
    assert typos == ["error: train.class_weights names 'oak', but the classes are ash, birch"] * 2
