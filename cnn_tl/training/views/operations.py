"""The operations of augmentation policies on batches of views, with the results of Pillow.

Each takes uint8 pixels [N, H, W, 3] and returns as many. The docstrings say how far they are from Pillow's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from cnn_tl.training.views.finishing import blended, grey, mean_grey

_NEARLY = 1 / 64
"""Added before interpolated values are rounded down, as Pillow does: coordinates have errors here, and a pixel that
stays as it is must not become 1 less."""


class Places:
    """Centres of an image's pixels, and the values that they can have, on a device.

    Attributes:
        x_W, y_H1: float32, in pixels.
        levels_256: 0 to 255, float32.
    """

    def __init__(self, width: int, height: int, device: torch.device) -> None:
        self.x_W = torch.arange(width, device=device) + 0.5
        self.y_H1 = (torch.arange(height, device=device) + 0.5)[:, None]
        self.levels_256 = torch.arange(256, dtype=torch.float32, device=device)


def transformed(pixels_NHW3: Tensor, matrices_6N: Tensor, places: Places, colour: Tensor) -> Tensor:
    """Give each pixel (x, y) the value at (a x + b y + c, d x + e y + f), or `colour` if that is outside.

    Interpolated bilinearly (Geometry.c, `bilinear_filter32RGB`); about one value in fifty is off by 1, and at the
    border single pixels of slanting edges may be on its other side.

    Args:
        matrices_6N: a to f of each image, float32; what they make of x and y is -1 to 1 over the image.
        colour: uint8 [3].
    """
    along_x, along_y, shifts = matrices_6N.view(2, 3, -1, 1, 1).unbind(1)
    grid_2NHW = along_x * places.x_W + (along_y * places.y_H1 + shifts)
    inside_NHW = ((grid_2NHW >= -1) & (grid_2NHW < 1)).all(0)
    x_N3HW, grid_NHW2 = pixels_NHW3.permute(0, 3, 1, 2).float(), grid_2NHW.permute(1, 2, 3, 0)
    found_N3HW = grid_sample(x_N3HW, grid_NHW2, "bilinear", "border", align_corners=False)
    found_NHW3 = found_N3HW.add_(_NEARLY).to(torch.uint8).permute(0, 2, 3, 1)
    return torch.where(inside_NHW[..., None], found_NHW3, colour)


def saturated(pixels_NHW3: Tensor, factors_N: Tensor) -> Tensor:
    """Change the saturation, 1 leaves it; exact."""
    return blended(grey(pixels_NHW3), pixels_NHW3, factors_N[:, None, None, None])


def sharpened(pixels_NHW3: Tensor, factors_N: Tensor) -> Tensor:
    """Change the sharpness, 1 leaves it: blend with `ImageFilter.SMOOTH`, which leaves the border alone; exact."""
    if min(pixels_NHW3.shape[1:3]) < 3:
        return pixels_NHW3
    smooth = avg_pool2d(pixels_NHW3.permute(0, 3, 1, 2).float(), 3, 1, divisor_override=1).permute(0, 2, 3, 1)
    inner = pixels_NHW3[:, 1:-1, 1:-1]
    smooth = smooth.add_(inner, alpha=4).div_(13).add_(0.5).floor_()  # the middle counts five times
    sharp = pixels_NHW3.clone()
    sharp[:, 1:-1, 1:-1] = blended(smooth, inner, factors_N[:, None, None, None])
    return sharp


def looked_up(pixels_NHW3: Tensor, tables_N256C: Tensor) -> Tensor:
    """Replace each value by that of its image's table, uint8 [N, 256, 3] or, for all channels, [N, 256, 1]."""
    places = pixels_NHW3.flatten(1, 2).long()
    return tables_N256C.expand(-1, -1, 3).gather(1, places).view(pixels_NHW3.shape)


def contrast_tables(pixels_NHW3: Tensor, factors_N: Tensor, levels_256: Tensor) -> Tensor:
    """Return tables [N, 256, 1] that change the contrast, 1 leaves it; exact."""
    return blended(mean_grey(pixels_NHW3), levels_256, factors_N[:, None])[:, :, None]


def autocontrast_tables(pixels_NHW3: Tensor, levels_256: Tensor) -> Tensor:
    """Return tables [N, 256, 3] that stretch each channel to 0..255; exact, except where there is no float64 (MPS)."""
    exact = torch.float32 if pixels_NHW3.device.type == "mps" else torch.float64
    levels_256C = levels_256.to(exact)[:, None]
    low_N1C = pixels_NHW3.amin((1, 2))[:, None].to(exact)
    span_N1C = pixels_NHW3.amax((1, 2))[:, None].to(exact) - low_N1C
    scale = 255 / span_N1C.clamp(min=1)
    stretched = (levels_256C * scale).sub_(low_N1C * scale).clamp_(0, 255)
    return torch.where(span_N1C > 0, stretched, levels_256C).to(torch.uint8)


def equalize_tables(pixels_NHW3: Tensor, levels_256: Tensor) -> Tensor:
    """Return tables [N, 256, 3] that even out the histogram of each channel; exact."""
    levels = levels_256.to(torch.uint8)
    sorted_N3P = pixels_NHW3.flatten(1, 2).transpose(1, 2).contiguous().sort(-1).values
    below = torch.searchsorted(sorted_N3P, levels.expand(*sorted_N3P.shape[:2], -1).contiguous())  # pixels, by level
    step = below.gather(-1, sorted_N3P[:, :, -1:].long()).div_(255, rounding_mode="floor")
    evened = (below + step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    return torch.where(step > 0, evened, levels).transpose(1, 2).to(torch.uint8)
