"""`cnn-tl evaluate` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.evaluating import evaluate as evaluating
from cnn_tl.inference.classifier import Classifier

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def by_brightness(pixels: Any) -> Any:
    light = pixels.mean(axis=(1, 2, 3)) > 128
    return np.where(np.stack([~light, light], axis=1), 4.5, 0).astype(np.float32)


@pytest.fixture(autouse=True)
def _model_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside a folder of two classes; the model tells dark from light, and one image is in the wrong folder."""
    monkeypatch.chdir(tmp_path)
    for name, colours in {"dark": ["black", "white", "navy"], "light": ["ivory"]}.items():
        folder = Path("photos", name)
        folder.mkdir(parents=True)
        for number, colour in enumerate(colours):
            Image.new("RGB", (20, 20), colour).save(folder / f"{number}.png")
    model = Classifier(("dark", "light"), SPEC, by_brightness)
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: model)


def test_tables(cli: Callable[..., Any]) -> None:
    done = cli("evaluate", "run", "photos")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    folded = " ".join(lines)
    assert "accuracy 75.0% 3 right" in lines
    assert "majority-class baseline 75.0% always dark, most common here, as that in training is not known" in folded
    assert "dark 2 / 3 2 / 2" in lines
    assert "light 1 / 1 1 / 2" in lines
    assert "dark light 1" in lines
    assert "it is not known whether the model was trained on them" in " ".join(lines)


def test_robustness_as_tables_and_a_plot(cli: Callable[..., Any]) -> None:
    done = cli("evaluate", "run", "photos", "--robustness", "--output", "plot.png")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "none 75.0% 100.0% 4" in lines
    assert "shift 0.5% 75.0% 100.0% 16" in lines
    assert "the plot is in plot.png" in done.err
    with Image.open("plot.png") as plot:
        assert plot.width == 1600


def test_json_and_a_broken_image(cli: Callable[..., Any]) -> None:
    Path("photos/light/broken.png").write_bytes(Path("photos/light/0.png").read_bytes()[:50])
    done = cli("evaluate", "run", "photos", "--json")
    found = json.loads(done.out)
    assert (done.code, found["images"]) == (0, 4)
    assert found["unreadable"][0][0] == str(Path("photos/light/broken.png").resolve())
    assert "warning: " in done.err
    assert "is not counted" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["photos", "--output", "plot.png"], 2, "--output is the file for the plot of --robustness"),
        (["photos", "--robustness", "--output", "plot.jpg"], 2, "ends in .png"),
        (["photos", "--robustness", "--output", "photos"], 2, "photos is a folder; name the file"),
        (["photos", "--split", "val"], 2, "has no splits (train, val, test)"),
        (["photos", "--part", "val"], 2, "has no splits (train, val, test)"),
        (["photos/dark"], 3, "images directly in"),
        (["absent"], 3, "does not exist"),
        (["photos", "--limit", "0"], 2, "--limit"),
    ],
)
def test_refusals(cli: Callable[..., Any], arguments: list[str], code: int, said: str) -> None:
    done = cli("evaluate", "run", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("error: ") == 1
