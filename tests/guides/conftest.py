"""What lies in the folder where the commands of a document are run.

- flower.jpg, china.jpg: scikit-learn's two sample photographs
- photos/flower, photos/temple: 24 crops of each, 160 px
- holiday: six other crops
- digits/0 ... 9: 20 handwritten digits each, 28 px
- runs/photos-freeze: the run of `cnn-tl train photos`
- model.onnx: what `cnn-tl export runs/photos-freeze` writes
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.cli import app
from cnn_tl.cli.terminal import bars

MEASURED = {
    "cnn_tl.training.step.precision.seconds_of_a_step": None,
    "cnn_tl.training.estimate.seconds_per_image": 0.01,
}
"""What a plan measures on the machine, which takes seconds, and what it is told instead: documents show no such figure
that is compared."""

SIDE = 160
TRAIN, OTHERS, DIGITS = 24, 3, 20


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that is copied for each document."""
    folder = tmp_path_factory.mktemp("prepared")
    _write_photographs(folder)
    _write_digits(folder / "digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNN_TL_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert app.run(["train", "photos"]) == 0
        assert app.run(["export", "runs/photos-freeze", "--output", "model.onnx"]) == 0
    return folder


@pytest.fixture
def scratch(prepared: Path, curves: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go into a folder of this document's own; features are shared with the others."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder, ignore=shutil.ignore_patterns("cache"))
    monkeypatch.setenv("CNN_TL_CACHE", str(prepared / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(bars, "SECONDS_BETWEEN_LINES", float("inf"))
    for measure, told in MEASURED.items():
        monkeypatch.setattr(measure, lambda *_, told=told: told)
    for name in ("PAGER", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    program = tmp_path / "bin" / "cnn-tl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cnn_tl "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(app.__file__).parents[2]))
    monkeypatch.chdir(folder)
    return folder


def _write_photographs(folder: Path) -> None:
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    sample = load_sample_images()
    for path, pixels in zip(sample.filenames, sample.images, strict=True):
        name = Path(path).name
        Image.fromarray(pixels).save(folder / name, quality=95)
        label = {"china.jpg": "temple", "flower.jpg": "flower"}[name]
        (folder / "photos" / label).mkdir(parents=True)
        (folder / "holiday").mkdir(exist_ok=True)
        for number in range(TRAIN + OTHERS):
            top, left = (int(random.integers(0, room - SIDE)) for room in pixels.shape[:2])
            crop = Image.fromarray(pixels[top : top + SIDE, left : left + SIDE])
            where = folder / "photos" / label / f"{number}.jpg"
            if number >= TRAIN:
                where = folder / "holiday" / f"{label[0]}{number - TRAIN}.jpg"
            crop.save(where, quality=95)


def _write_digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for number, image in enumerate(digits.images[digits.target == label][:DIGITS]):
            pixels = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8))
            pixels.resize((28, 28), Image.Resampling.BICUBIC).save(folder / str(label) / f"{number}.png")
