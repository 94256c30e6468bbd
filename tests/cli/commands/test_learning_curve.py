"""`cnn-tl learning-curve` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.plots.figure import DRAWN_BY


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return two classes of noise that differ in their mean colour, by less than they vary."""
    chance = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for index, name in enumerate(("a", "b")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                colour = 110 + 25 * index + chance.normal(0, 15, 3)
                pixels = np.clip(colour + chance.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).resize((64, 64)).save(folder / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def flags(tiny_weights: Path) -> tuple[object, ...]:
    return ("--model", "test_resnet", "--weights", tiny_weights, "--image-size", "64", "--device", "cpu")


def test_a_folder(cli: Callable[..., Any], photos: Path, flags: tuple[object, ...], tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    plot = tmp_path / "curve.png"
    done = cli("learning-curve", photos, *flags, "--output", plot)
    assert done.code == 0, done.err
    text = " ".join(done.out.split())
    assert "64 images of 2 classes: heads fitted to 48, 10 draws of each size" in text
    assert re.search(r"\b48 24 \d+\.\d% \d+\.\d% to \d+\.\d%", text)
    assert re.search(r"2 x = 96 48 \d+\.\d%", text)
    assert "check: from the first half (24 of 48 images) it foretold" in text
    assert "cost: twice as many are 48 more, about 24 of each class" in text
    assert max(map(len, done.out.splitlines()[2:15])) <= 80
    with Image.open(plot) as image:
        assert image.info["Software"] == DRAWN_BY
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before


def test_json_is_one_document_and_the_seed_decides(
    cli: Callable[..., Any], photos: Path, flags: tuple[object, ...]
) -> None:
    one, again, other = (cli("learning-curve", photos, *flags, "--json", "--seed", seed) for seed in (0, 0, 1))
    documents = [json.loads(done.out) for done in (one, again, other)]
    for document in documents:
        document.pop("seconds")
        document.pop("computed", None)
    assert documents[0] == documents[1] != documents[2]
    assert [point["images"] for point in documents[0]["points"]][-2:] == [24, 48]
    assert documents[0]["outlooks"][0]["per_class"] == 48


def test_a_run_keeps_its_curve_and_its_report_shows_it(
    cli: Callable[..., Any], photos: Path, flags: tuple[object, ...], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert cli("train", photos, *flags, "--output", run).code == 0
    command = f"cnn-tl learning-curve {run}"
    assert command in (run / "report.html").read_text("utf-8")
    done = cli("learning-curve", run, "--device", "cpu")
    assert done.code == 0, done.err
    saved = json.loads((run / "learning-curve.json").read_text("utf-8"))
    assert saved["verdict"] in " ".join(done.out.split())
    report = cli("report", run, "--heat-maps", "none")
    assert report.code == 0
    page = (run / "report.html").read_text("utf-8")
    assert "What would more images bring?" in page
    (run / "learning-curve.json").write_text('{"points": [{"images": "many"}]}', "utf-8")
    damaged = cli("report", run, "--heat-maps", "none")
    assert damaged.code == 0
    assert "What would more images bring?" not in (run / "report.html").read_text("utf-8")


@pytest.mark.parametrize("option", [("--model", "resnet18"), ("--set", "head.kind=ridge")])
def test_a_run_has_its_own_recipe(cli: Callable[..., Any], tmp_path: Path, option: tuple[str, str]) -> None:
    (tmp_path / "recipe.yaml").write_text("mode: freeze\n", "utf-8")
    done = cli("learning-curve", tmp_path, *option)
    assert done.code == 2
    assert "is a run, which has its own recipe" in done.err


def test_two_images_in_all(cli: Callable[..., Any], photos: Path, flags: tuple[object, ...]) -> None:
    for image in list(photos.rglob("*.png")):
        if image.name != "0.png" or "val" in image.parts:
            image.unlink()
    for folder in (photos / "val" / "a", photos / "val" / "b", photos / "val"):
        folder.rmdir()
    done = cli("learning-curve", photos, *flags)
    assert done.code == 3
    assert done.err.count("error:") == 1


def test_the_plot_overwrites_nothing(cli: Callable[..., Any], photos: Path, flags: tuple[object, ...]) -> None:
    image = photos / "train" / "a" / "0.png"
    before = image.read_bytes()
    done = cli("learning-curve", photos, *flags, "--output", image)
    assert done.code == 2
    assert image.read_bytes() == before
