"""`data.groups: twins` keeps copies together that only pixels tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnn_tl.core.progress import Observer
from cnn_tl.data.folders.scan import scan
from cnn_tl.doctor.twin_groups import find_twin_groups
from cnn_tl.recipe import Recipe


class Heard(Observer):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.remarks: list[str] = []

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        self.tasks.append(task)

    def note(self, text: str) -> None:
        self.remarks.append(text)

    def warn(self, text: str) -> None:
        self.remarks.append(text)


def photos(root: Path) -> Path:
    """Write a folder in which 0.bmp has the pixels of 0.png, in another split, and one file is broken."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((64, 64)).save(root / split / name / f"{number}.png")
    with Image.open(root / "val" / "a" / "0.png") as image:
        image.save(root / "train" / "a" / "0.bmp")
    (root / "train" / "b" / "broken.png").write_bytes((root / "train" / "b" / "0.png").read_bytes()[:200])
    return root


def test_equal_pixels_are_a_group_and_nothing_is_remarked_twice(tmp_path: Path) -> None:
    manifest = scan(photos(tmp_path / "photos"), seed=0, val_fraction=0.2)
    heard = Heard()
    recipe = Recipe.model_validate({"mode": "freeze", "data": {"path": str(manifest.root)}}).resolve()
    groups = find_twin_groups(manifest, heard, recipe)
    assert set(groups) == {"train/a/0.bmp", "val/a/0.png"}
    assert len(set(groups.values())) == 1
    assert "finding twins" in heard.tasks
    assert heard.remarks == []


def test_train_leaves_such_a_copy_out_of_training(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")
    plain = cli("train", data, "--dry-run", "--json", "--device", "cpu")
    kept = cli("train", data, "--dry-run", "--json", "--device", "cpu", "--set", "data.groups=twins")
    assert '"train": 5' in plain.out
    assert '"train": 5' not in kept.out
    assert "train/a/0.bmp" in kept.err


def test_a_broken_image_is_set_aside_before_the_splits_are_chosen(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = photos(tmp_path / "photos") / "train"
    flags = ("--device", "cpu", "--set", "data.groups=twins", "--output", tmp_path / "run")
    done = cli("train", data, *flags)
    assert done.code == 0, done.err
    assert "broken.png" in done.err


def test_doctor_of_such_a_run_has_its_splits(cli: Callable[..., Any], tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")
    flags = ("--device", "cpu", "--set", "data.groups=twins", "--output", tmp_path / "run")
    assert cli("train", data, *flags).code == 0
    found = json.loads(cli("doctor", tmp_path / "run", "--json").out)
    assert found["data"]["images"]["a"] == {"train": 4, "val": 2, "test": 0}
    assert found["leaks"] == {"val": 0}


def test_images_are_read_with_the_limits_of_the_run(cli: Callable[..., Any], tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "tiny" / name).mkdir(parents=True)
        for number in range(5):
            pixels = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "tiny" / name / f"{number}.png")
    flags = ("--device", "cpu", "--set", "data.groups=twins", "--set", "data.min_side=2")
    done = cli("train", tmp_path / "tiny", "--dry-run", *flags)
    assert done.code == 0, done.err
