"""Accuracy and agreement by the strength of each change of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl.core.formatting import percent
from cnn_tl.plots.figure import BLUE, GREY, ORANGE, TITLE, new_figure, tidy, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Sequence[tuple[str, float, float]]
"""For each strength in order: its text, accuracy and agreement, 0 to 1."""

_COLUMNS = 2


def plot_robustness(path: Path, panels: Mapping[str, Points], accuracy: float, baseline: float) -> None:
    """Draw one panel for each change, as a PNG.

    Args:
        panels: change -> its points, including the unchanged images.
        accuracy: on the unchanged images. baseline: accuracy of the majority-class baseline.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    rows = -(-(len(panels) + 1) // _COLUMNS)
    figure = new_figure(height=2.5 * rows)
    grid = figure.subplots(rows, _COLUMNS, sharey=True, squeeze=False).flatten()
    for axes, (change, points) in zip(grid, panels.items(), strict=False):
        _draw(axes, change, points, baseline)
    legend = grid[len(panels)]
    for axes in grid[len(panels) :]:
        axes.axis("off")
    handles, names = grid[0].get_legend_handles_labels()
    title = f"unchanged images: {percent(accuracy)} right"
    legend.legend(handles, names, title=title, frameon=False, fontsize=10, title_fontsize=10, loc="center")
    write(figure, path)


def _draw(axes: Axes, change: str, points: Points, baseline: float) -> None:
    places = range(len(points))
    _, right, same = zip(*points, strict=True)
    for shares, colour, name in ((same, BLUE, "same answer"), (right, ORANGE, "right answer")):
        axes.plot(places, [100 * x for x in shares], "o-", color=colour, linewidth=1.8, markersize=4, label=name)
    axes.axhline(100 * baseline, color=GREY, linewidth=1, linestyle="--", label="majority-class baseline")
    axes.set_xticks(list(places), [p[0] for p in points])
    axes.set_ylim(0, 103)
    axes.set_title(change.capitalize(), **TITLE)
    tidy(axes)
    axes.tick_params(axis="x", labelsize=9)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
