from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.statistics import wilson_interval
from cnn_tl.plots import curves, figure
from cnn_tl.plots.curves import CurvesContext, best_row, plot_curves


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


def has_colour(image: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((image == wanted).all(-1).any())


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


def test_no_epochs_no_image(tmp_path: Path) -> None:
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Draw rows and return the panels of the figure: loss, accuracy, learning rate."""

    def draw(made: list[dict[str, Any]], **story: Any) -> Any:
        figures: list[Any] = []
        monkeypatch.setattr(curves, "write", lambda figure, path: figures.append(figure))
        plot_curves(tmp_path / "curves.png", made, CurvesContext(**story))
        return figures[0].axes

    return draw


HEAD = {"epoch": 0, "step": 0, "val_loss": 0.1, "val_accuracy": 0.99}


def labels(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def ring(axes: Any) -> tuple[float, float]:
    [found] = [line for line in axes.lines if line.get_markersize() > 10]
    return float(found.get_xdata()[0]), round(float(found.get_ydata()[0]), 6)


@pytest.mark.parametrize(
    ("story", "told", "where"),
    [
        ({}, "best so far: epoch 2, 75.0%", (2, 75)),
        ({"head_counts": True}, "best so far: the fitted head, 99.0%", (0, 99)),
        ({"kept": 0}, "kept: the fitted head, 99.0%", (0, 99)),
        ({"kept": 2, "head_counts": True}, "kept: epoch 2, 75.0%", (2, 75)),
        ({"kept": 1}, "kept: epoch 1, 50.0%", (1, 50)),
    ],
)
def test_the_ring_marks_the_epoch_that_is_kept(drawn: Any, story: Any, told: str, where: tuple[float, float]) -> None:
    losses, accuracy, _ = drawn([HEAD, *rows(2, lr=1e-3)], **story)
    assert labels(accuracy) == ["fitted head alone: 99.0%", told]
    assert ring(accuracy) == where
    assert list(accuracy.lines[0].get_xdata()) == [0, 1, 2]
    assert losses.get_xlim()[0] < 0


@pytest.mark.parametrize("epochs", [1, 2, 3, 100])
@pytest.mark.parametrize(("images", "shares"), [(75, (0.96, 0.92)), (20, (1.0, 0.95)), (400, (0.02, 0.0))])
def test_three_images_are_no_cliff_and_no_mark_is_cut(
    drawn: Any, epochs: int, images: int, shares: tuple[float, float]
) -> None:
    made = [row | {"val_accuracy": shares[row["epoch"] % 2], "lr": 0.0} for row in rows(epochs)]
    for axes in drawn(made, images=images, title="runs/a: finetune"):
        assert all(not line.get_clip_on() for line in axes.lines if line.get_label() != "95% interval"), "half a mark"
        if epochs == 1:
            continue
        low, high = axes.get_ylim()
        values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines])
        assert low < values.min() <= values.max() < high
    accuracy = axes.figure.axes[1]
    low, high = accuracy.get_ylim()
    ends = [wilson_interval(round(row["val_accuracy"] * images), images) for row in made]
    interval = 100 * max(above - below for below, above in ends)
    assert high - low >= min(curves.INTERVALS_HIGH * interval, 100)
    assert low >= -5
    assert high <= 105
    assert "95% interval" in labels(accuracy)


def test_the_band_is_the_interval_of_each_epoch(drawn: Any) -> None:
    _, accuracy = drawn([{"epoch": n, "val_accuracy": n / 4} for n in (1, 2, 3)], images=80)
    [band] = [found for found in accuracy.collections if found.get_label() == "95% interval"]
    corners = band.get_paths()[0].vertices
    for epoch in (1, 2, 3):
        at = corners[corners[:, 0] == epoch][:, 1]
        low, high = wilson_interval(epoch * 20, 80)
        assert (at.min(), at.max()) == pytest.approx((100 * low, 100 * high))


def test_title_and_phases_stand_on_the_plot_whatever_they_are_called(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    story = CurvesContext(title="runs/$犬^{2}$: finetune" + "x" * 200, phases=[(1, "head"), (2, "all")], images=8)
    plot_curves(tmp_path / "curves.png", rows(3), story)
    assert not recwarn.list


def test_phases_are_named_and_divided(drawn: Any) -> None:
    for axes in drawn(rows(5, lr=0.1), phases=[(1, "head"), (2, "last-stage"), (4, "all")]):
        assert {line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"} == {1.5, 3.5}
    assert axes.get_xlabel() == "epoch   (trains: head from 1, last-stage from 2, all from 4)"
