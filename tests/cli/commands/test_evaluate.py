"""`cnn-tl evaluate` as a user meets it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.files import sha256_file
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
    assert "macro 83.3% 75.0% 73.3% each class weighs the same" in lines
    assert "weighted 75.0% 87.5% 76.7% by images" in lines
    assert "dark 2 / 3 2 / 2 66.7% 100.0% 80.0%" in lines
    assert "light 1 / 1 1 / 2 100.0% 50.0% 66.7%" in lines
    assert "top-" not in done.out  # of two classes, both are always among the two most probable
    assert "dark light 1" in lines
    assert "it is not known whether the model was trained on them" in " ".join(lines)


def test_files_of_all_that_was_found(cli: Callable[..., Any]) -> None:
    done = cli("evaluate", "run", "photos", "--wrong", "w.csv", "--answers", "a.jsonl", "--report", "r.html")
    assert done.code == 0
    for said in ("the wrong images are in w.csv", "the answers are in a.jsonl", "the report is in r.html"):
        assert said in done.err
    digests = {path.name: sha256_file(path) for path in Path("photos/dark").iterdir()}
    with Path("w.csv").open(newline="") as stream:
        [row] = csv.DictReader(stream)
    assert (row["file"], row["label"], row["predicted"]) == ("dark/1.png", "dark", "light")
    assert row["sha256"] == digests["1.png"]
    answers = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert [one["file"] for one in answers] == ["dark/0.png", "dark/1.png", "dark/2.png", "light/0.png"]
    assert [one["sha256"] for one in answers[:3]] == [digests[f"{k}.png"] for k in range(3)]
    assert "dark/1.png" in Path("r.html").read_text()
    again = cli("evaluate", "run", "photos", "--wrong", "w.csv", "--report", "r.html", "--json")
    assert json.loads(again.out)["macro"]["f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_top_k_is_printed_where_there_are_more_classes(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_best(pixels: Any) -> Any:
        others = np.tile(np.array([3.0, 0, 0, 0, 0]), (len(pixels), 1))
        return np.concatenate([by_brightness(pixels) / 9, others], axis=1).astype(np.float32)

    model = Classifier(("dark", "light", "always", "x", "y", "z", "w"), SPEC, second_best)
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: model)
    done = cli("evaluate", "run", "photos")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "accuracy 0.0% 0 right" in lines
    assert "top-5 accuracy 100.0% the class is among the 5 most probable" in lines


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
        (["photos", "--wrong", "photos/dark/0.png"], 2, "--wrong photos/dark/0.png is named like an image"),
        (["photos", "--report", "r.txt"], 2, "--report r.txt: the page is HTML"),
        (["photos", "--wrong", "a", "--answers", "a"], 2, "--wrong and --answers are the same file"),
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
