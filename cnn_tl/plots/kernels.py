"""A convolution as a plot: the image before, the kernel, the image after."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core.errors import printable
from cnn_tl.plots.figure import TITLE, WIDTH, new_figure, write

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_MOST_WRITTEN = 7
"""Larger kernels are drawn without their numbers."""

_LONGEST_NAME = 14


def plot_kernels(
    path: Path,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    matrices: Sequence[NDArray[np.float64]],
    name: str,
    lines: Sequence[str],
) -> None:
    """Draw an image before and after a convolution, with the kernel between them, as a PNG.

    Args:
        before, after: uint8 [H, W] or [H, W, 3].
        matrices: the kernel's, one below the other.
        name: of the kernel. lines: text below the images, such as the arithmetic of the sizes.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    tall = max(before.shape[0] / before.shape[1], after.shape[0] / after.shape[1])
    panels = min(max(0.4 * WIDTH * tall, 0.17 * WIDTH * len(matrices)), WIDTH)
    figure = new_figure(height=panels + 0.6 + 0.22 * len(lines))
    grid = figure.add_gridspec(1, 3, width_ratios=[1, 0.36, 1])
    _image(figure.add_subplot(grid[0, 0]), before, "before")
    inner = grid[0, 1].subgridspec(len(matrices), 1)
    for index, matrix in enumerate(matrices):
        _kernel(figure.add_subplot(inner[index, 0]), matrix, name if index == 0 else "")
    _image(figure.add_subplot(grid[0, 2]), after, "after")
    figure.supxlabel("\n".join(lines), fontsize=9, color="#374151")
    write(figure, path)


def _image(axes: Axes, pixels: NDArray[np.uint8], name: str) -> None:
    height, width = pixels.shape[:2]
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    axes.set_title(f"{name}, {height} x {width}", **TITLE)
    _without_frame(axes)


def _kernel(axes: Axes, matrix: NDArray[np.float64], name: str) -> None:
    rows, columns = matrix.shape
    reach = float(abs(matrix).max()) or 1.0
    axes.imshow(matrix, cmap="PuOr_r", vmin=-reach, vmax=reach)
    if max(rows, columns) <= _MOST_WRITTEN:
        written = [[_written(value) for value in row] for row in matrix.tolist()]
        longest = max(len(text) for row in written for text in row)
        size: Any = min(10, 30 / max(rows, columns), 90 / (max(rows, columns) * longest))
        for row in range(rows):
            for column in range(columns):
                colour = "white" if abs(matrix[row, column]) > 0.6 * reach else "#111827"
                axes.text(column, row, written[row][column], ha="center", va="center", fontsize=size, color=colour)
    title = printable(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}...")
    axes.set_title(title, parse_math=False, **TITLE)  # the name of a file may contain a $
    _without_frame(axes)


def _written(value: float) -> str:
    """Write an entry as a fraction such as 1/9 if it is one, else with two digits."""
    fraction = Fraction(value).limit_denominator(273)
    exact = abs(float(fraction) - value) < 1e-12
    return str(fraction) if exact and fraction.numerator < 100 else f"{value:.2g}"


def _without_frame(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color("#c3c8cf")
