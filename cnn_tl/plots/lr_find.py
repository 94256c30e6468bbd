"""The plot of a learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl.plots.figure import BLUE, GREY, ORANGE, TITLE, new_figure, tidy, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 2.0
"""The axis ends this many times the fall above the highest loss before the minimum; higher losses are marked."""


def plot_lr_find(
    path: Path,
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggestions: Mapping[str, float],
    default: str | None = None,
) -> None:
    """Draw the loss against the learning rate, on a logarithmic axis, with each suggestion marked, as a PNG.

    Args:
        rates, losses: the learning rate of each step and the training loss before its update, drawn as dots.
        smoothed: the smoothed losses, drawn as a line.
        suggestions: name -> rate. default: the name of the one that is used.

    Raises:
        ValueError: there is no finite loss, or the lengths differ.
        ResourceError: the disk is full or not writable.
    """
    if not len(rates) == len(losses) == len(smoothed):
        raise ValueError("rates, losses and smoothed must have the same length")
    if not any(map(math.isfinite, smoothed)):
        raise ValueError("no finite losses to draw")
    figure = new_figure(height=4.5)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot(rates, losses, "o", color=BLUE, alpha=0.4, markersize=4, markeredgewidth=0, label="each step")
    axes.plot(rates, smoothed, color=BLUE, linewidth=2, label="smoothed")
    _limit(axes, rates, losses, smoothed)
    for name, rate in sorted(suggestions.items(), key=lambda one: one[0] != default):
        taken = name == default
        axes.axvline(
            rate, label=f"{name}: {rate:.2g}" + (" (default)" if taken else ""), color=ORANGE if taken else GREY,
            linewidth=1.8 if taken else 1.2, linestyle="-" if taken else "--",
        )  # fmt: skip
    axes.set_xlabel("learning rate (logarithmic)", fontsize=10, color="#374151")
    axes.set_ylabel("loss", fontsize=10, color="#374151")
    axes.set_title("Training loss while the learning rate rises", **TITLE)
    axes.legend(facecolor="white", edgecolor="none", framealpha=0.9, fontsize=10, loc="best")
    tidy(axes)
    write(figure, path)


def _limit(axes: Axes, rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float]) -> None:
    """End the axis where the loss diverges, and mark at its edge each step that is higher.

    The range is that of the line up to its minimum, and of all steps in the first half.
    """
    line = [value for value in smoothed if math.isfinite(value)]
    fall = line[: line.index(min(line)) + 1] + [loss for loss in losses[: len(losses) // 2] if math.isfinite(loss)]
    low, high = min(fall), max(fall)
    span = max(high - low, 1e-3 * abs(high), 1e-9)
    finite = [loss for loss in losses if math.isfinite(loss)]
    top, bottom = min(max(*finite, high), high + MOST * span), min(*finite, low)
    margin = 0.06 * (top - bottom + span)
    axes.set_ylim(bottom - margin, top + margin)
    beyond = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if not loss <= top]
    if beyond:
        highest = max((loss for _, loss in beyond if math.isfinite(loss)), default=math.inf)
        label = f"{len(beyond)} above the edge, up to {highest:.3g}"
        edge = [top + 0.5 * margin] * len(beyond)
        axes.plot([rate for rate, _ in beyond], edge, "^", color=BLUE, markersize=6, clip_on=False, label=label)
