"""The common style of all plots, and how they are written."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core import files
from cnn_tl.plots.load_matplotlib import load_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#1f6fb2", "#d9730d", "#6b7280"
"""Two colours that colour-blind readers can tell apart, and one for secondary lines."""

TITLE: dict[str, Any] = {"loc": "left", "fontsize": 11, "fontweight": "bold", "color": "#111827", "pad": 8}
"""The style of a panel's title, above its top left corner."""

WIDTH = 8.0
"""In inches: text of 10 pt is readable in a plot that is shown 800 pixels wide."""

DOTS_PER_INCH = 200

DRAWN_BY = "cnn-tl"
"""The `Software` in the metadata of the PNGs that cnn-tl draws, by which it recognises them."""


def new_figure(height: float) -> Figure:
    """Return an empty white figure, `height` inches high; unlike pyplot's it is in no global list."""
    load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """Keep only the axes with numbers, and put a faint horizontal grid behind the data."""
    axes.set_facecolor("white")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c3c8cf")
    axes.tick_params(colors="#374151", labelsize=10, length=3)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def shorten(line: str, most: int) -> str:
    """Replace the middle of a line that is too long for a plot by an ellipsis."""
    if len(line) <= most:
        return line
    half = most // 2 - 1
    return f"{line[:half]}…{line[-half:]}"


def write(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, atomically; a character that the font lacks becomes a box without a warning.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    with files.atomic_path(path) as temporary, files.disk_errors(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": DRAWN_BY})
