"""`cnn_tl.examine` finds what `cnn-tl doctor` does, and returns it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import cnn_tl
from cnn_tl.core.errors import DataError, UsageError


@pytest.fixture
def photos(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    for split, count in (("train", 6), ("val", 2)):
        make_images(tmp_path / "photos" / split, {"a": count, "b": count}, seed=count)
    shutil.copy(tmp_path / "photos" / "train" / "a" / "0.png", tmp_path / "photos" / "val" / "a" / "leak.png")
    return tmp_path / "photos"


def test_findings_and_files(photos: Path, tmp_path: Path, tiny_weights: Path) -> None:
    model = {"name": "test_resnet", "weights": str(tiny_weights), "image_size": 64}
    found = cnn_tl.examine(photos, tmp_path / "found", model=model, device="cpu", quiet=True)
    assert found.findings[0].kind == "leaks"
    assert found.findings[0].count == 1
    assert found.backbones == ("test_resnet",)
    assert found.collection.open(0).size == (24, 24)
    assert (tmp_path / "found" / "index.html").exists()


def test_wrong_calls_are_one_line(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="source: got 3"):
        cnn_tl.examine(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="inside the data"):
        cnn_tl.examine(photos, photos / "found", quiet=True)
    with pytest.raises(DataError):
        cnn_tl.examine(tmp_path / "nothing", quiet=True)
