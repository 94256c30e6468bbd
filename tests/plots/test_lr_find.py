from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.plots.figure import ORANGE
from cnn_tl.plots.lr_find import plot_lr_find

RATES = np.geomspace(1e-6, 1, 40).tolist()
LOSSES = [1 - 0.02 * n for n in range(35)] + [1.0, 3.0, 9.0, 30.0, math.inf]


def columns_of(path: Path, colour: str) -> list[int]:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    with Image.open(path) as image:
        below_the_legend = np.asarray(image.convert("RGB"))[image.height // 2 :]
    return np.flatnonzero((below_the_legend == wanted).all(-1).any(0)).tolist()


def test_the_suggestion_is_marked_where_it_is(tmp_path: Path) -> None:
    places = []
    for suggestion in (1e-4, 1e-2):
        plot_lr_find(tmp_path / "lr.png", RATES, LOSSES, suggestion, LOSSES[:34])
        places.append(columns_of(tmp_path / "lr.png", ORANGE))
    assert places[0]
    assert max(places[0]) < min(places[1])


@pytest.mark.parametrize("losses", [[0.5] * 40, LOSSES, [math.nan, *LOSSES[1:]]])
def test_flat_and_runaway_losses_are_drawn_without_a_warning(tmp_path: Path, losses: list[float]) -> None:
    plot_lr_find(tmp_path / "lr.png", RATES, losses, 1e-3)
    assert columns_of(tmp_path / "lr.png", ORANGE)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        plot_lr_find(tmp_path / "lr.png", [1e-3], [math.nan], 1e-3)
    with pytest.raises(ValueError, match="as many"):
        plot_lr_find(tmp_path / "lr.png", [1e-3], [1.0, 2.0], 1e-3)
    assert not list(tmp_path.iterdir())
