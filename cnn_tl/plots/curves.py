"""Learning curves: loss, validation accuracy and learning rate by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core.formatting import percent
from cnn_tl.core.statistics import wilson_interval
from cnn_tl.plots.figure import BLUE, GREY, ORANGE, TITLE, new_figure, shorten, tidy, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
Points = tuple[list[float], list[float]]

INTERVALS_HIGH = 2.5
"""The accuracy axis spans at least this many 95% intervals, so that three images do not look like a collapse."""

LEAST_HIGH = 5.0
"""It also spans at least this many percentage points, for narrow or unknown intervals."""

_INK = "#111827"
_LONGEST_TITLE = 88


@dataclass(frozen=True)
class CurvesContext:
    """What the curves need besides the metrics.

    Attributes:
        title: of the plot.
        images: the number of validation images; 0: unknown, and no interval is drawn.
        kept: the epoch whose weights are kept, 0 for the fitted head alone; None: not decided yet.
        head_counts: whether epoch 0 may be the best so far.
        phases: (first epoch, what trains), where that changes.
    """

    title: str = ""
    images: int = 0
    kept: int | None = None
    head_counts: bool = False
    phases: Sequence[tuple[int, str]] = ()


def plot_curves(path: Path, rows: Rows, context: CurvesContext | None = None) -> None:
    """Draw the rows of metrics.jsonl as a PNG, with a ring around the kept epoch, or the best so far.

    Args:
        rows: those with an `epoch` (0 is the fitted head before training) are drawn, with their `loss`, `val_loss`,
            `val_accuracy` (0 to 1) and `lr`; a missing or non-finite number leaves a gap.

    Raises:
        ValueError: no row has an epoch.
        ResourceError: the disk is full or not writable.
    """
    rows, context = [row for row in rows if "epoch" in row], context or CurvesContext()
    if not rows:
        raise ValueError("no epochs to draw")
    panels = [_draw_loss, _draw_accuracy] + ([_draw_learning_rate] if _points(rows, "lr")[0] else [])
    figure = new_figure(height=6.4 if len(panels) == 2 else 7.6)
    grid = figure.subplots(len(panels), sharex=True, height_ratios=[3, 3, 1.4][: len(panels)], squeeze=False)[:, 0]
    if context.title:
        title = shorten(context.title, _LONGEST_TITLE)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK, parse_math=False)
    for draw, axes in zip(panels, grid, strict=True):
        draw(axes, rows, context)
        tidy(axes)
        for epoch, _ in context.phases[1:]:
            axes.axvline(epoch - 0.5, color=GREY, linewidth=1, linestyle=":")
    _number_epochs(grid[-1], rows, context)
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


def _draw_loss(axes: Axes, rows: Rows, context: CurvesContext) -> None:
    _line(axes, _points(rows, "loss"), BLUE, "training")
    _line(axes, _points(rows, "val_loss"), ORANGE, "validation")
    axes.margins(y=0.08)
    axes.set_title("Loss", **TITLE)
    _legend(axes)


def _draw_accuracy(axes: Axes, rows: Rows, context: CurvesContext) -> None:
    """Draw the accuracy with its intervals and the ring."""
    epochs, shares = _points(rows, "val_accuracy")
    axes.set_title("Validation accuracy", **TITLE)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    if not epochs:
        return
    percents = [100 * share for share in shares]
    lows, highs = zip(*(_interval(share, context.images) for share in shares), strict=True)
    if context.images:
        axes.fill_between(epochs, lows, highs, color=ORANGE, alpha=0.15, linewidth=0, label="95% interval")
        if len(epochs) == 1:  # one epoch has no band
            axes.vlines(epochs, lows, highs, color=ORANGE, alpha=0.35, linewidth=6)
    _line(axes, (epochs, percents), ORANGE, "_nolegend_")
    head = next((row for row in rows if row["epoch"] == 0 and _is_number(row.get("val_accuracy"))), None)
    if head is not None:
        label = f"fitted head alone: {percent(head['val_accuracy'])}"
        axes.axhline(100 * head["val_accuracy"], color=GREY, linewidth=1.2, linestyle="--", label=label)
    _ring(axes, rows, context)
    axes.set_ylim(_limits(lows, highs))
    _legend(axes)


def _interval(share: float, images: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of an accuracy in percent, or the accuracy twice if the interval is unknown."""
    if not images or math.isnan(share):
        return 100 * share, 100 * share
    low, high = wilson_interval(round(min(1.0, max(0.0, share)) * images), images)
    return 100 * low, 100 * high


def _limits(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """Return the limits of the axis in percent: around all intervals, several intervals wide."""
    pairs = [(low, high) for low, high in zip(lows, highs, strict=True) if not math.isnan(low)]
    low, high = min(low for low, _ in pairs), max(high for _, high in pairs)
    widest = max(high - low for low, high in pairs)
    room = max(INTERVALS_HIGH * widest, LEAST_HIGH, 1.12 * (high - low)) - (high - low)
    bottom, top = low - room / 2, high + room / 2
    if top > 100:  # move the surplus below; markers at 0 and 100 stay whole
        bottom, top = bottom - (top - 100), 100.0
    if bottom < 0:
        bottom, top = 0.0, min(100.0, top - bottom)
    edge = 0.03 * (top - bottom)
    return bottom - edge, top + edge


def _ring(axes: Axes, rows: Rows, context: CurvesContext) -> None:
    """Draw a ring around the epoch whose weights are kept; while undecided, the best so far."""
    row, word = best_row(rows, head_counts=context.head_counts), "best so far"
    if context.kept is not None:
        row = next((row for row in rows if row["epoch"] == context.kept and _is_number(row.get("val_accuracy"))), None)
        word = "kept"
    if row is None:
        return
    which = f"epoch {row['epoch']}" if row["epoch"] else "the fitted head"
    label = f"{word}: {which}, {percent(row['val_accuracy'])}"
    axes.plot(
        [row["epoch"]], [100 * row["val_accuracy"]], "o", markersize=11, markerfacecolor="none",
        markeredgecolor=_INK, markeredgewidth=1.4, clip_on=False, zorder=5, linestyle="none", label=label,
    )  # fmt: skip


def _legend(axes: Axes) -> None:
    """Put the legend above the panel, where there are no curves."""
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles, labels, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(labels), frameon=False, fontsize=9,
        borderaxespad=0.2, handlelength=1.4, handletextpad=0.4, columnspacing=1.1,
    )  # fmt: skip


def _draw_learning_rate(axes: Axes, rows: Rows, context: CurvesContext) -> None:
    from matplotlib.ticker import MaxNLocator

    _line(axes, _points(rows, "lr"), GREY, "learning rate")
    axes.set_title("Learning rate, at the end of the epoch", **TITLE)
    _, rates = _points(rows, "lr")
    top = max(rate for rate in rates if math.isfinite(rate)) or 1
    axes.set_ylim(-0.08 * top, 1.12 * top)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _number_epochs(axes: Axes, rows: Rows, context: CurvesContext) -> None:
    from matplotlib.ticker import MaxNLocator

    first, last = rows[0]["epoch"], rows[-1]["epoch"]
    room = max(0.02 * (last - first), 0.25)
    axes.set_xlim(first - room, last + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value else "head" if first == 0 else "")
    changes = ", ".join(f"{what} from {epoch}" for epoch, what in context.phases) if len(context.phases) > 1 else ""
    text = shorten(f"epoch   (trains: {changes})" if changes else "epoch", _LONGEST_TITLE)
    axes.set_xlabel(text, fontsize=10, color="#374151", parse_math=False)


def _line(axes: Axes, points: Points, colour: str, label: str) -> None:
    if not points[0]:
        return
    few = len(points[0]) <= 30  # many dots would hide the line
    axes.plot(
        *points, color=colour, linewidth=1.8, marker="o" if few else None, markersize=4, label=label, clip_on=False,
        zorder=3,
    )  # fmt: skip


def _points(rows: Rows, column: str) -> Points:
    """Return the epochs and the values of a column, NaN where one is missing; empty if all are missing."""
    if not any(_is_number(row.get(column)) for row in rows):
        return [], []
    return [row["epoch"] for row in rows], [row[column] if _is_number(row.get(column)) else math.nan for row in rows]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
