"""Images that are hard to tell apart, and whole runs of a tiny network on the GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gpus
import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.progress import Observer
from cnn_tl.recipe import Recipe
from cnn_tl.training.result import TrainResult
from cnn_tl.training.run import train

SIDE = 64
CLASSES = {"ash": 24, "birch": 20, "cedar": 16}

Sections = Mapping[str, Any]


@pytest.fixture(scope="session")
def device() -> str:
    return os.environ.get(gpus.ANY_DEVICE, "cuda")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of many sizes and modes, whose colours tell the class in most."""
    draw = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("gpu") / "photos"
    for index, (name, count) in enumerate(CLASSES.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            base = 90 + 45 * np.eye(3)[index] + draw.normal(0, 15, 3)
            small = np.clip(base + draw.normal(0, 30, (6, 6, 3)), 0, 255).astype(np.uint8)
            width, height = (int(side) for side in draw.integers(SIDE // 2, 3 * SIDE, 2))
            image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
            mode = ("RGB", "RGB", "RGB", "P", "RGBA", "CMYK")[number % 6]
            image.convert(mode).save(root / name / f"{number}.{'tif' if mode == 'CMYK' else 'png'}")
    return root


@pytest.fixture(scope="session")
def recipe(photos: Path, tiny_weights: Path, device: str) -> Callable[..., Recipe]:
    """Return a recipe of two epochs on the GPU; `sections` add to it."""

    def make(mode: str = "finetune", **sections: Sections) -> Recipe:
        tree: dict[str, Any] = {
            "mode": mode,
            "data": {"path": str(photos)},
            "model": {"name": "test_resnet", "image_size": SIDE, "weights": str(tiny_weights)},
            "run": {"device": device, "precision": "fp32"},
        }
        if mode == "scratch":
            tree["model"].pop("weights")
        if mode != "freeze":
            tree["train"] = {"epochs": 2, "batch_size": 8, "lr": 0.001}
        for name, values in sections.items():
            tree[name] = tree.get(name, {}) | values
        return Recipe.model_validate(tree)

    return make


@pytest.fixture
def run(recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., TrainResult]:
    """Train in a run folder of this name."""

    def go(
        name: str, mode: str = "finetune", resume: bool = False, observer: Observer | None = None, **sections: Sections
    ) -> TrainResult:
        return train(recipe(mode, **sections), tmp_path / name, resume=resume, observer=observer)

    return go
