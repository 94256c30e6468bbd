"""A small trained run, made by the call that a notebook makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnn_tl

TINY = "test_resnet"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two classes, told apart by their colour."""
    draw = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("api") / "photos"
    for name, colour in (("dark", 60), ("light", 190)):
        (root / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.clip(draw.normal(colour, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def settings(tiny_weights: Path) -> dict[str, Any]:
    return {"model": TINY, "weights": tiny_weights, "image_size": 64, "device": "cpu"}


@pytest.fixture(scope="session")
def result(photos: Path, settings: dict[str, Any]) -> cnn_tl.TrainResult:
    return cnn_tl.train(photos, photos.parent / "run", **settings)
