from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.plots.figure import ORANGE, new_figure
from cnn_tl.plots.lr_find import _limit, plot_lr_find

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
        plot_lr_find(tmp_path / "lr.png", RATES, LOSSES, LOSSES, {"steepest": suggestion, "valley": 1e-5}, "steepest")
        places.append(columns_of(tmp_path / "lr.png", ORANGE))
    assert places[0]
    assert max(places[0]) < min(places[1])


@pytest.mark.parametrize("losses", [[0.5] * 40, LOSSES, [math.nan, *LOSSES[1:]]])
def test_flat_and_runaway_losses_are_drawn_without_a_warning(tmp_path: Path, losses: list[float]) -> None:
    plot_lr_find(tmp_path / "lr.png", RATES, losses, losses, {"valley": 1e-3}, "valley")
    assert columns_of(tmp_path / "lr.png", ORANGE)


@pytest.mark.parametrize(("losses", "above"), [([0.5] * 40, 0), (LOSSES, 4), ([1.0] * 38 + [4.0, 1e6], 2)])
def test_no_step_is_cut_off_in_silence(losses: list[float], above: int) -> None:
    axes = new_figure(4).subplots()
    axes.plot(RATES, losses, "o")
    _limit(axes, RATES, losses, [min(loss, 1.0) for loss in losses])
    low, high = axes.get_ylim()
    outside = sum(not low <= loss <= high for loss in losses)
    labels = [str(line.get_label()) for line in axes.lines]
    assert outside <= above
    assert any(label.startswith(f"{above} above the edge, up to") for label in labels) == (above > 0)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finite"):
        plot_lr_find(tmp_path / "lr.png", [1e-3], [math.nan], [math.nan], {})
    with pytest.raises(ValueError, match="same length"):
        plot_lr_find(tmp_path / "lr.png", [1e-3], [1.0, 2.0], [1.0], {})
    assert not list(tmp_path.iterdir())
