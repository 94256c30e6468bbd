"""The picture of a learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from cnn_tl.plots.figure import BLUE, ORANGE, TITLE, new_figure, tidy, write


def plot_lr_find(
    path: Path,
    rates: Sequence[float],
    losses: Sequence[float],
    suggestion: float | None,
    smoothed: Sequence[float] | None = None,
) -> None:
    """Draw the loss against the learning rate, on a logarithmic axis, with the suggestion marked, as a PNG.

    Args:
        rates, losses: the learning rate of each step and the training loss before its update.
        smoothed: their smooth course, from the first rate as far as it goes; `losses` are faint dots around it.

    Raises:
        ValueError: there is no finite loss, or the lengths differ.
        ResourceError: the disk is full or not writable.
    """
    line = losses if smoothed is None else smoothed
    if len(rates) != len(losses) or len(line) > len(losses):
        raise ValueError("as many losses as rates are needed")
    finite = [loss for loss in line if math.isfinite(loss)]
    if not finite:
        raise ValueError("no finite losses to draw")
    figure = new_figure(height=4.5)
    axes = figure.subplots()
    if smoothed is not None:
        axes.plot(rates, losses, "o", color=BLUE, alpha=0.4, markersize=4, markeredgewidth=0, label="each step")
    axes.plot(rates[: len(line)], line, color=BLUE, linewidth=2, label="loss" if smoothed is None else "smoothed")
    if suggestion is not None:
        axes.axvline(suggestion, color=ORANGE, linewidth=1.6, label=f"suggestion: {suggestion:.2g}")
    axes.set_xscale("log")
    early = [loss for loss in losses[: max(1, len(losses) // 4)] if math.isfinite(loss)]  # where rates change nothing
    low, high = min(finite + early), max(finite[: max(1, len(finite) // 2)] + early)
    room = max(high - low, 1e-3 * abs(high), 1e-9)
    axes.set_ylim(low - 0.3 * room, high + 0.5 * room)  # not up to where the loss has run away
    axes.set_xlabel("learning rate (logarithmic)", fontsize=10, color="#374151")
    axes.set_title("Training loss while the learning rate rises", **TITLE)
    axes.legend(frameon=False, fontsize=10, loc="best")
    tidy(axes)
    write(figure, path)
