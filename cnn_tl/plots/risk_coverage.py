"""The error by the share of images that is answered, the most confident first."""

from __future__ import annotations

from pathlib import Path

from cnn_tl.abstention.risk import RiskCoverage
from cnn_tl.core.formatting import percent, share_as_typed
from cnn_tl.plots.figure import BLUE, GREY, ORANGE, TITLE, new_figure, tidy, write


def plot_risk_coverage(
    path: Path, curve: RiskCoverage, max_error: float | None = None, point: tuple[float, float] | None = None
) -> None:
    """Draw the curve as a PNG.

    Args:
        max_error: what was promised: a dashed line.
        point: the share of images that is answered then, and the error among them.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    figure = new_figure(height=4.2)
    axes = figure.subplots()
    axes.plot(100 * curve.coverage, 100 * curve.risk, color=BLUE, linewidth=1.8)
    if max_error is not None:
        label = f"promised: at most {share_as_typed(max_error)}"
        axes.axhline(100 * max_error, color=GREY, linewidth=1, linestyle="--", label=label)
    if point is not None:
        label = f"{percent(point[0])} answered, {percent(point[1])} of them wrong"
        axes.plot(100 * point[0], 100 * point[1], "o", color=ORANGE, markersize=8, label=label)
    if max_error is not None or point is not None:
        axes.legend(frameon=False, fontsize=10, loc="upper left")
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0, top=max(105 * float(curve.risk.max()), 120 * (max_error or 0), 1))
    axes.set_xlabel("images answered, the most confident first", fontsize=10, color="#374151")
    axes.set_title(f"Wrong answers: {percent(float(curve.risk[-1]))} if every image is answered", **TITLE)
    tidy(axes)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}%")
    write(figure, path)
