"""Mode freeze needs no torch: with the packages of requirements-light.txt alone it does all, and elsewhere loads none.

What does need it says so in one line, before it begins.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import light_only
import numpy as np
import pytest
from PIL import Image

ABSENT = {"huggingface-hub", "onnxscript", "scikit-learn", "timm", "torch", "torchcam", "torchvision"}
"""Dependencies that the light installation does without."""

OURS = re.compile(r"\| +(torch|torchvision|timm)$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 8 images of each of two classes, in which `trained` has been trained without torch."""
    folder = tmp_path_factory.mktemp("light")
    draw = np.random.default_rng(0)
    for number in range(16):
        path = folder / "photos" / ("dark" if number % 2 else "light") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 128, (40, 50, 3)) + (0 if number % 2 else 100)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    done = light_only.run(["train", "photos", "--output", "trained"], folder=folder)
    assert done.stdout.endswith("\n0\n"), done.stderr
    return folder


def test_the_list_is_that_of_the_project_without_torch() -> None:
    whole = tomllib.loads((light_only.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    assert set(whole) > set(light_only.listed())
    names = {light_only._name(line) for line in set(whole) - set(light_only.listed())}
    assert names == ABSENT


def test_it_does_all_that_mode_freeze_is_for(folder: Path) -> None:
    lines = [
        ["evaluate", "trained", "photos"],
        ["evaluate", "trained", "photos", "--robustness"],
        ["export", "trained"],
        ["explain", "trained", "photos/dark/1.png", "--method", "occlusion", "--output", "why"],
        ["explain", "trained", "photos/dark/1.png"],
        ["train", "photos", "--head", "ridge", "--output", "ridge"],
        ["train", "photos", "--head", "knn", "--dry-run"],
        *(["predict", model, "photos", "--output", f"{name}.csv"]
          for name, model in (("run", "trained"), ("file", "trained/model.onnx"))),
        ["cache", "info"],
        ["recipes", "list"],
        ["models"],
        ["guide", "predicting"],
        ["convolve", "photos/dark/1.png"],
    ]  # fmt: skip
    done = light_only.run(*lines, folder=folder)
    assert re.findall(r"^\d+$", done.stdout, re.MULTILINE) == ["0"] * len(lines), done.stderr
    run, file = (list(csv.DictReader((folder / name).read_text().splitlines())) for name in ("run.csv", "file.csv"))
    assert [row["label"] for row in run] == [row["label"] for row in file]
    near = pytest.approx([float(row["probability"]) for row in file], abs=1e-4)
    assert [float(row["probability"]) for row in run] == near
    assert [*(folder / "why").glob("*.png")]


def test_it_gives_the_answers_of_the_whole_installation(folder: Path) -> None:
    light = light_only.run(["predict", "trained", "photos", "--output", "light.csv"], folder=folder)
    command = [sys.executable, "-m", "cnn_tl", "predict", "trained", "photos", "--output", "whole.csv"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    assert light.stdout.endswith("0\n")
    assert (folder / "light.csv").read_text() == (folder / "whole.csv").read_text()


def test_what_needs_torch_says_so_in_one_line(folder: Path) -> None:
    photos = ["photos", "--output", "never"]
    needs = {
        "mode finetune": ["train", *photos, "--mode", "finetune"],
        "mode lp-ft": ["train", *photos, "--mode", "lp-ft"],
        "mode auto": ["train", *photos, "--mode", "auto", "--dry-run"],
        "mode scratch": ["train", *photos, "--mode", "scratch"],
        "head adamw": ["train", *photos, "--head", "adamw"],
        "device cuda": ["train", *photos, "--device", "cuda"],
        "the model resnet18 (not": ["train", *photos, "--model", "resnet18"],
        "images of 64 px (not": ["train", *photos, "--image-size", "64"],
        "weights of your own": ["train", *photos, "--weights", "photos/dark/1.png"],
        "mode finetune ": ["lr-find", "photos"],
        "the table": ["inspect", "resnet18"],
        "the benchmark": ["benchmark"],
        "method layercam (not for occlusion)": [
            "explain",
            "trained",
            "photos",
            "--method",
            "layercam",
            "--output",
            "never",
        ],
        "--format timm": ["export", "trained", "--format", "timm"],
        "--format torch": ["export", "trained", "--format", "torch"],
    }
    done = light_only.run(*needs.values(), folder=folder)
    assert done.stdout.split() == ["5"] * len(needs), done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(needs), done.stderr
    for purpose, line in zip(needs, errors, strict=True):
        assert line.startswith(f"error: torch is needed for {purpose}"), done.stderr
        assert re.search(r"not installed: pip install cnn-tl \(adds it and \d+ more that are missing\)$", line)
    assert not (folder / "never").exists()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "train photos --output again",
        "evaluate trained photos",
        "predict trained photos",
        "export trained --output whole.onnx",
        "explain trained photos/dark/1.png --output whole",
    ],
    ids=lambda line: line.split()[0],
)
def test_where_torch_is_installed_it_is_not_loaded(folder: Path, line: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "cnn_tl", *line.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" in done.stderr
    assert OURS.findall(done.stderr) == []


@pytest.mark.soak
def test_the_demo(folder: Path) -> None:
    done = light_only.run(["demo", "--output", "demo"], folder=folder)
    assert done.stdout.endswith("\n0\n"), done.stderr
    assert json.loads((folder / "demo" / "run" / "result.json").read_text())["accuracy"] > 0.9
