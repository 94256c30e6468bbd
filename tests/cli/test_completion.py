"""What Tab offers, as the shell's own script asks for it: with words in environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_tl.cli import app, completion


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("runs/pets-freeze", "runs/pets-finetune", "elsewhere/one"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "recipe.yaml").write_text("mode: freeze\n")
    (tmp_path / "runs" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)


def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str) -> list[str]:
    monkeypatch.setenv("_CNN_TL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit):
        app.run([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cnn-tl train --recipe f", ["finetune", "freeze"]),
        ("cnn-tl lr-find photos --recipe sc", ["scratch"]),
        ("cnn-tl recipes copy le", ["lenet5"]),
        ("cnn-tl recipes validate v", ["vgg"]),
        ("cnn-tl train --recipe mine", []),
        ("cnn-tl train --model resnet", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]),
        ("cnn-tl benchmark --model vgg16", ["vgg16", "vgg16_bn"]),
        ("cnn-tl train --set train.ep", ["train.epochs="]),
        ("cnn-tl train --mode fr", ["freeze"]),
        ("cnn-tl predict runs/p", ["runs/pets-finetune", "runs/pets-freeze"]),
        ("cnn-tl evaluate r", ["runs/pets-finetune", "runs/pets-freeze"]),
        ("cnn-tl export elsewhere/", ["elsewhere/one"]),
        ("cnn-tl explain elsewhere/o", ["elsewhere/one"]),
        ("cnn-tl serve nothing", []),
        ("cnn-tl inspect resnet5", ["resnet50"]),
        ("cnn-tl mod", ["models"]),
        ("cnn-tl guide refer", ["reference"]),
    ],
)
def test_offers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, expected: list[str]
) -> None:
    assert offered(monkeypatch, capsys, line) == expected


def test_an_absolute_path_is_completed_too(tmp_path: Path) -> None:
    assert completion.runs(f"{tmp_path}/elsewhere/") == [f"{tmp_path}/elsewhere/one"]
    assert completion.runs(f"{tmp_path}/no such folder/x") == []


def test_the_real_command_answers_without_torch() -> None:
    words = {"_CNN_TL_COMPLETE": "complete_bash", "COMP_WORDS": "cnn-tl train --model resnet1", "COMP_CWORD": "3"}
    command = [sys.executable, "-X", "importtime", "-m", "cnn_tl"]
    done = subprocess.run(command, env=os.environ | words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["resnet18", "resnet101", "resnet152"]
    assert not [line for line in done.stderr.splitlines() if line.rpartition("|")[2].strip() in ("torch", "timm")]
