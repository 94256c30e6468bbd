"""Explanations as PNGs: the image beside its explanation, one by one and on contact sheets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.plots.figure import BLUE, GREY, ORANGE, new_figure, shorten, tidy, write
from cnn_tl.plots.load_matplotlib import load_matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

Pixels = NDArray[np.uint8]

COLOURS = "viridis"
"""From dark blue to yellow with rising lightness: readable for colour-blind people and in grey print."""

MOST_OPAQUE = 0.8
"""Opacity of the hottest pixel, through which the image is still visible."""

CAPTION: dict[str, Any] = {"loc": "left", "fontsize": 9, "color": "#111827", "parse_math": False}
LONGEST_LINE = 64


@dataclass(frozen=True)
class Curves:
    """The evidence for a class by the share of pixels deleted or inserted, for a heat map and for random maps.

    Attributes:
        share: 0..1, [S + 1]. deletion, insertion, random_deletion, random_insertion: [S + 1], 0 for the evidence
            in a grey image and 1 for that in the whole image.
    """

    share: NDArray[np.float64]
    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]
    random_deletion: NDArray[np.float64]
    random_insertion: NDArray[np.float64]


@dataclass(frozen=True)
class Drawing:
    """One explanation.

    Attributes:
        lines: the text above: image, prediction, figures.
        panels: the image and its explanation (or only that), uint8 [H, W, 3].
        captions: of the panels.
        curves: deletion and insertion, if measured.
    """

    lines: tuple[str, ...]
    panels: tuple[Pixels, ...]
    captions: tuple[str, ...]
    curves: Curves | None = None


def heat_over(pixels_HWC: Pixels, heat_HW: NDArray[np.floating]) -> Pixels:
    """Blend a heat map over the grey image, more opaque where hotter; negative values count as 0.

    So colour always means heat, and where there is none the image is visible unchanged.
    """
    load_matplotlib()
    from matplotlib import colormaps

    heat = np.clip(heat_HW, 0, None)
    heat = heat / heat.max() if heat.max() > 0 else heat
    grey_HW1 = (pixels_HWC @ np.array([0.299, 0.587, 0.114]))[..., None]
    opacity_HW1 = MOST_OPAQUE * heat[..., None]
    mixed = (1 - opacity_HW1) * grey_HW1 + opacity_HW1 * 255 * colormaps[COLOURS](heat)[..., :3]
    return np.asarray(mixed.round(), dtype=np.uint8)


def signed(values_HWC: NDArray[np.floating]) -> Pixels:
    """Return an image of signed values: 0 is grey, the largest 2% are black or white."""
    sizes = np.abs(values_HWC[values_HWC != 0])
    scaled = np.clip(values_HWC / np.quantile(sizes, 0.98), -1, 1) if sizes.size else values_HWC
    return (127.5 + 127.5 * scaled).round().astype(np.uint8)


def mosaic(tiles: Sequence[Pixels], side: int | None = None, columns: int | None = None) -> Pixels:
    """Arrange tiles row by row in a nearly square grid on white.

    Args:
        side: scale the tiles so that the largest fits a square of this many pixels; None: all have the same size.
    """
    from PIL import Image

    if side is not None:
        scale = side / max(max(tile.shape) for tile in tiles)
        tiles = [_fitted(Image.fromarray(tile), side, scale) for tile in tiles]
    height, width = tiles[0].shape[:2]
    gap = max(1, round(0.04 * max(height, width)))
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def plot_explanation(path: Path, drawing: Drawing) -> None:
    """Write one explanation as PNG.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    columns = len(drawing.panels) + (drawing.curves is not None)
    figure = new_figure(height=0.25 * len(drawing.lines) + 8.0 / max(columns, 2) + 0.3)
    text = "\n".join(shorten(line, LONGEST_LINE) for line in drawing.lines)
    figure.suptitle(text, x=0.01, ha="left", fontsize=10, parse_math=False)
    grid = figure.subplots(1, columns, squeeze=False)[0]
    for axes, panel, caption in zip(grid, drawing.panels, drawing.captions, strict=False):
        _show(axes, panel)
        axes.set_title(caption, **CAPTION)
    if drawing.curves is not None:
        _draw_curves(grid[-1], drawing.curves)
    write(figure, path)


def plot_contact_sheet(path: Path, drawings: Sequence[Drawing]) -> None:
    """Write several explanations on one sheet, two to a row.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    panels = max(len(drawing.panels) for drawing in drawings)
    per_row = min(len(drawings), 4 // panels)
    rows = math.ceil(len(drawings) / per_row)
    lines = max(len(drawing.lines) for drawing in drawings)
    figure = new_figure(height=rows * (8.0 / (per_row * panels) + 0.16 * lines + 0.1))
    grid = figure.subplots(rows, per_row * panels, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, drawing in enumerate(drawings):
        row, first = number // per_row, number % per_row * panels
        for offset, panel in enumerate(drawing.panels):
            _show(grid[row, first + offset], panel)
        text = "\n".join(shorten(line, LONGEST_LINE) for line in drawing.lines)
        grid[row, first].set_title(text, loc="left", fontsize=7, color="#111827", parse_math=False)
    write(figure, path)


def _show(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 64 else "antialiased")
    axes.set_axis_off()


def _draw_curves(axes: Axes, curves: Curves) -> None:
    for name, colour in (("deletion", ORANGE), ("insertion", BLUE)):
        axes.plot(curves.share, getattr(curves, name), color=colour, linewidth=1.8, label=name)
        random = getattr(curves, f"random_{name}")
        axes.plot(curves.share, random, color=colour, linewidth=1.2, linestyle=":", label="of random maps")
    every = np.concatenate([curves.deletion, curves.insertion, curves.random_deletion, curves.random_insertion])
    axes.set_ylim(min(every.min(), 0) - 0.03, max(every.max(), 1) + 0.03)
    axes.set_box_aspect(1)
    axes.set_xlabel("share of the pixels", fontsize=8, color=GREY)
    axes.set_title("evidence: 0 grey, 1 this image", **CAPTION)
    axes.legend(frameon=False, fontsize=7, loc="best")
    tidy(axes)
    axes.tick_params(labelsize=7)


def _fitted(tile: Image.Image, side: int, scale: float) -> Pixels:
    from PIL import Image

    size = max(1, round(tile.width * scale)), max(1, round(tile.height * scale))
    canvas = Image.new("RGB", (side, side), "white")
    resized = tile.resize(size, Image.Resampling.NEAREST if scale > 3 else Image.Resampling.BICUBIC)
    canvas.paste(resized, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(canvas)
