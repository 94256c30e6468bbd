"""A finished run of a tiny network on images of classes whose names try to break a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_tl.recipe import Recipe

HOSTILE = "<img src=x onerror=alert(1)>"
BACKWARDS = "\u202e\"quoted\" & 'more'"
CLASSES = (HOSTILE, BACKWARDS, "plain")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """Return a finished run in mode freeze, with a report; 3 classes that are hard to tell apart."""
    import numpy as np
    from PIL import Image

    from cnn_tl.reporting.after_training import write_report_of
    from cnn_tl.training.run import train

    place = tmp_path_factory.mktemp("reporting")
    random = np.random.default_rng(0)
    for index, name in enumerate(CLASSES):
        folder = place / "data" / name
        folder.mkdir(parents=True)
        for number in range(30):
            pixels = np.clip(100 + 12 * index + random.normal(0, 40, 3) + random.normal(0, 25, (24, 24, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (place / "data" / "plain" / "broken.png").write_bytes(b"no image")
    tree = {
        "mode": "freeze",
        "data": {"path": str(place / "data"), "val_fraction": 0.3},
        "model": {"name": "test_resnet", "image_size": 64, "weights": str(tiny_weights)},
        "run": {"device": "cpu"},
    }
    train(Recipe.model_validate(tree), place / "run", report=write_report_of)
    return place / "run"


@pytest.fixture
def loose_run(run: Path, tmp_path: Path) -> Callable[[], Path]:
    """Return a function that copies the run, so that a test may damage it."""
    import shutil

    return lambda: Path(shutil.copytree(run, tmp_path / "copy"))
