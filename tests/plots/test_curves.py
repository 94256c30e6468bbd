from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.plots import curves, figure
from cnn_tl.plots.curves import best_row, plot_curves


def rows(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "loss": 1 / n, "val_loss": 1.2 / n, "val_accuracy": 1 - 0.5 / n, **more}
        for n in range(1, count + 1)
    ]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == figure.WIDTH * figure.DOTS_PER_INCH
        return np.asarray(image.convert("RGB"))


def has_colour(picture: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((picture == wanted).all(-1).any())


def test_both_losses_and_the_accuracy_are_drawn_the_learning_rate_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    plot_curves(path, rows(6))
    without = pixels(path)
    assert has_colour(without, figure.BLUE)
    assert has_colour(without, figure.ORANGE)
    assert not has_colour(without, figure.GREY)
    plot_curves(path, rows(6, lr=1e-3))
    assert has_colour(pixels(path), figure.GREY)
    assert [found.name for found in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize(
    "given",
    [
        rows(1, lr=0.0),
        rows(200),
        [{"epoch": 3}, {"epoch": 4}],
        [{"epoch": 1, "loss": math.nan, "val_accuracy": None}, {"epoch": 2, "loss": 0.5, "val_accuracy": 1}],
        [{"val_accuracy": 0.9, "head": "lbfgs"}, *rows(2)],
    ],
)
def test_odd_rows_are_drawn_without_a_warning(tmp_path: Path, given: list[dict[str, Any]]) -> None:
    plot_curves(tmp_path / "curves.png", given)
    assert (pixels(tmp_path / "curves.png") < 255).any()


def test_no_epochs_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no epochs"):
        plot_curves(tmp_path / "curves.png", [{"val_accuracy": 0.9}])
    assert not list(tmp_path.iterdir())


def test_the_best_epoch_is_the_one_the_loop_keeps() -> None:
    judged = [(0.5, 0.9), (0.8, 0.6), (0.8, 0.5), (0.8, 0.5), (math.nan, 0.1)]
    made = [{"epoch": n, "val_accuracy": a, "val_loss": loss} for n, (a, loss) in enumerate(judged, 1)]
    best = best_row(made)
    assert best is not None
    assert best["epoch"] == 3
    assert best_row([{"epoch": 1}]) is None


def test_pyplot_is_left_alone_and_matplotlib_until_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\nfrom cnn_tl.plots.curves import plot_curves\n"
        "assert 'matplotlib' not in sys.modules\nplot_curves(pathlib.Path(sys.argv[1]), [{'epoch': 1, 'loss': 1.0}])\n"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-c", code, tmp_path / "curves.png"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True False\n"


@pytest.mark.parametrize(("head_counts", "told"), [(False, "75.0% in epoch 2"), (True, "99.0% in epoch 0")])
def test_epoch_0_is_the_head_alone_and_the_best_where_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head_counts: bool, told: str
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(curves, "write", lambda made, path: drawn.append(made))
    head = {"epoch": 0, "step": 0, "val_loss": 0.1, "val_accuracy": 0.99}
    made = [head, *rows(2, lr=1e-3)]
    plot_curves(tmp_path / "curves.png", made, head_counts=head_counts)
    losses, accuracy, _ = drawn[0].axes
    assert accuracy.get_title(loc="right") == f"fitted head alone: 99.0%, best: {told}"
    assert list(accuracy.lines[0].get_xdata()) == [0, 1, 2]
    assert losses.get_xlim()[0] < 0
