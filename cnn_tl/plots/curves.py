"""Learning curves: loss, validation accuracy and learning rate by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.plots.figure import BLUE, GREY, ORANGE, TITLE, new_figure, tidy, write
from cnn_tl.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
Points = tuple[list[float], list[float]]


def plot_curves(path: Path, rows: Rows, *, head_counts: bool = False) -> None:
    """Draw the rows of metrics.jsonl as a PNG; the best epoch is marked.

    Args:
        rows: those with an `epoch` are drawn (0 is the fitted head before any training), with what they have of
            `loss`, `val_loss`, `val_accuracy` (0 to 1) and `lr`; a missing or non-finite number leaves a gap.
        head_counts: epoch 0 may be the best.

    Raises:
        ValueError: none has an epoch.
        ResourceError: the disk is full or not writable.
    """
    rows = [row for row in rows if "epoch" in row]
    if not rows:
        raise ValueError("no epochs to draw")
    panels = [_draw_loss, _draw_accuracy] + ([_draw_learning_rate] if _points(rows, "lr")[0] else [])
    figure = new_figure(height=6.0 if len(panels) == 2 else 7.2)
    grid = figure.subplots(len(panels), sharex=True, height_ratios=[3, 3, 1.4][: len(panels)], squeeze=False)
    for draw, axes in zip(panels, grid[:, 0], strict=True):
        draw(axes, rows)
        tidy(axes)
    if (best := best_row(rows, head_counts=head_counts)) is not None:
        _mark(grid[1, 0], best["epoch"], 100 * best["val_accuracy"], _of_head_alone(rows))
    _number_epochs(grid[-1, 0], rows)
    figure.align_ylabels()
    write(figure, path)


def best_row(rows: Rows, *, head_counts: bool = False) -> Mapping[str, Any] | None:
    """Return the row of the best epoch: the highest validation accuracy, then the lowest loss, then the first.

    Args:
        head_counts: whether epoch 0, the fitted head before any training, may be the best.
    """
    first = 0 if head_counts else 1
    judged = [row for row in rows if row.get("epoch", 0) >= first and _is_number(row.get("val_accuracy"))]
    return max(judged, key=lambda row: (row["val_accuracy"], -row.get("val_loss", 0.0)), default=None)


def _draw_loss(axes: Axes, rows: Rows) -> None:
    _line(axes, _points(rows, "loss"), BLUE, "training")
    _line(axes, _points(rows, "val_loss"), ORANGE, "validation")
    axes.set_title("Loss", **TITLE)
    axes.legend(frameon=False, fontsize=10, loc="best")


def _draw_accuracy(axes: Axes, rows: Rows) -> None:
    epochs, shares = _points(rows, "val_accuracy")
    _line(axes, (epochs, [100 * share for share in shares]), ORANGE, "validation")
    axes.set_title("Validation accuracy", **TITLE)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")


def _of_head_alone(rows: Rows) -> str:
    judged = [row for row in rows if row["epoch"] == 0 and _is_number(row.get("val_accuracy"))]
    return "".join(f"fitted head alone: {percent(row['val_accuracy'])}, " for row in judged)


def _mark(axes: Axes, epoch: int, percent: float, before: str) -> None:
    """Ring the best epoch; what it is stands where no curve can be, above the panel, after what went `before`."""
    axes.plot([epoch], [percent], "o", markersize=11, markerfacecolor="none", markeredgecolor="#111827", clip_on=False)
    axes.set_title(f"{before}best: {percent:.1f}% in epoch {epoch}", loc="right", fontsize=10, color="#111827")


def _draw_learning_rate(axes: Axes, rows: Rows) -> None:
    from matplotlib.ticker import MaxNLocator

    _line(axes, _points(rows, "lr"), GREY, "learning rate")
    axes.set_title("Learning rate, at the end of the epoch", **TITLE)
    _, rates = _points(rows, "lr")
    axes.set_ylim(0, 1.1 * max(rate for rate in rates if math.isfinite(rate)) or 1)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _number_epochs(axes: Axes, rows: Rows) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    room = max(0.02 * (last - first), 0.25)
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", fontsize=10, color="#374151")


def _line(axes: Axes, points: Points, colour: str, label: str) -> None:
    few = len(points[0]) <= 30  # of many epochs the dots would hide the line
    axes.plot(*points, color=colour, linewidth=1.8, marker="o" if few else None, markersize=4, label=label)


def _points(rows: Rows, column: str) -> Points:
    """Return the epochs and the column's values; NaN, which is not drawn, where there is none, or nothing at all."""
    if not any(_is_number(row.get(column)) for row in rows):
        return [], []
    return [row["epoch"] for row in rows], [row[column] if _is_number(row.get(column)) else math.nan for row in rows]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
