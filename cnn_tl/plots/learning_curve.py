"""The plot of a learning curve: accuracy by the number of images, measured and foretold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core.formatting import percent
from cnn_tl.plots.figure import BLUE, GREY, ORANGE, TITLE, new_figure, tidy, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_learning_curve(path: Path, curve: Mapping[str, Any]) -> None:
    """Draw the curve on a logarithmic axis of images, with 95% intervals, as a PNG.

    Args:
        curve: `points` and `outlooks`, each with `images`, `accuracy` and `interval`, and `now` likewise; `training`.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    figure = new_figure(height=4.5)
    axes = figure.subplots()
    axes.set_xscale("log")
    measured, foretold = curve["points"], curve["outlooks"]
    _draw(axes, measured, BLUE, "-", "measured, on images not fitted")
    if foretold:
        start = [curve["now"]] if curve["now"]["images"] > measured[-1]["images"] else [measured[-1]]
        _draw(axes, [*start, *foretold], ORANGE, "--", "foretold")
    axes.axvline(curve["training"], color=GREY, linewidth=1, linestyle=":", label="images for training today")
    ticks = [one["images"] for one in (*measured, *foretold)]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("images fitted (logarithmic)", fontsize=10, color="#374151")
    axes.set_title("Accuracy by the number of images fitted, with 95% intervals", **TITLE)
    axes.legend(facecolor="white", edgecolor="none", framealpha=0.9, fontsize=10, loc="lower right")
    tidy(axes)
    axes.tick_params(axis="x", labelsize=8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    write(figure, path)


def _draw(axes: Axes, points: Sequence[Mapping[str, Any]], colour: str, line: str, name: str) -> None:
    images = [one["images"] for one in points]
    low, high = ([one["interval"][end] for one in points] for end in (0, 1))
    axes.fill_between(images, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(images, [one["accuracy"] for one in points], line, marker="o", color=colour, linewidth=2, label=name)
    last = points[-1]
    axes.annotate(
        percent(last["accuracy"]), (last["images"], last["accuracy"]), xytext=(0, 8), textcoords="offset points",
        ha="center", fontsize=9, color=colour,
    )  # fmt: skip
