"""A small data set and recipes of whole runs on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cnn_tl.recipe import Recipe

TINY = "test_resnet"
SIDE = 64
MakeImages = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path, make_images: MakeImages) -> Path:
    return make_images(tmp_path / "data", {"ash": 20, "birch": 15, "cedar": 10})


@pytest.fixture
def recipe(data: Path, tiny_weights: Path) -> Callable[..., Recipe]:
    def make(mode: str = "freeze", **sections: Mapping[str, Any]) -> Recipe:
        tree: dict[str, Any] = {
            "mode": mode,
            "data": {"path": str(data)},
            "model": {"name": TINY, "image_size": SIDE} | ({} if mode == "scratch" else {"weights": str(tiny_weights)}),
            "run": {"device": "cpu"},
        }
        if mode != "freeze":
            tree["train"] = {"epochs": 2, "batch_size": 8, "lr": 0.001}
        for name, values in sections.items():
            tree[name] = tree.get(name, {}) | values
        return Recipe.model_validate(tree)

    return make
