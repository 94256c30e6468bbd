"""The plot of a learning curve is a PNG of cnn-tl, with and without an outlook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.plots.figure import DRAWN_BY
from cnn_tl.plots.learning_curve import plot_learning_curve


def point(images: int, accuracy: float) -> dict[str, Any]:
    return {"images": images, "accuracy": accuracy, "interval": [accuracy - 0.03, accuracy + 0.03]}


POINTS = [point(6, 0.7), point(112, 0.93), point(225, 0.95)]


@pytest.mark.parametrize("foretold", [[], [point(450, 0.96), point(900, 0.965)]])
def test_it_is_drawn(tmp_path: Path, foretold: list[dict[str, Any]]) -> None:
    path = tmp_path / "curve.png"
    plot_learning_curve(path, {"points": POINTS, "outlooks": foretold, "now": POINTS[-1], "training": 225})
    with Image.open(path) as image:
        assert image.info["Software"] == DRAWN_BY
        assert image.width == 1_600
        pixels = np.asarray(image.convert("RGB")).astype(int)
    orange = (np.abs(pixels - (0xD9, 0x73, 0x0D)).sum(2) < 30).any()
    assert orange == bool(foretold)
