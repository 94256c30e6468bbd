"""Folders to examine, and their collection by a tiny network with random weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cnn_tl.core.progress import Observer
from cnn_tl.doctor.collecting import Collected, collected
from cnn_tl.recipe import Recipe


@pytest.fixture
def collect(tiny_weights: Path) -> Callable[[Path], AbstractContextManager[Collected]]:
    """Return a function that collects a folder; the features are those of random weights."""

    def of(folder: Path) -> AbstractContextManager[Collected]:
        model = {"name": "test_resnet", "weights": str(tiny_weights), "image_size": 64}
        return collected(Recipe(mode="freeze", data={"path": str(folder)}, model=model).resolve(), Observer())

    return of


@pytest.fixture
def photos(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Return a folder of noise: two classes in train, val and test, 18 images."""
    make_images(tmp_path / "photos" / "train", {"a": 6, "b": 5})
    make_images(tmp_path / "photos" / "val", {"a": 2, "b": 2}, seed=1)
    make_images(tmp_path / "photos" / "test", {"a": 1, "b": 2}, seed=2)
    return tmp_path / "photos"
