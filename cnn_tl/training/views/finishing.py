"""The last steps of views: brightness, contrast and saturation, and the erased box."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.data.views.augment import Finish
from cnn_tl.training.views.transfer import sent


def finished(pixels_NHW3: Tensor, finishes: Sequence[Finish], colour: Tensor) -> Tensor:
    """Return uint8 pixels [N, H, W, 3] after colour jitter and erasing.

    Args:
        pixels_NHW3: views before these steps, uint8.
        finishes: the parameters of these steps, one for each image; all are jittered, or none is.
        colour: uint8 [3] on the same device, fills the erased boxes.
    """
    jitters = [finish.jitter for finish in finishes if finish.jitter is not None]
    assert len(jitters) in (0, len(finishes)), "all views of a run are jittered, or none is"
    holes = [finish.hole or (0, 0, 0, 0) for finish in finishes] if any(finish.hole for finish in finishes) else []
    arrays: list[NDArray[Any]] = []
    if jitters:
        brightness_N, *others = np.array(jitters, np.float32).T
        arrays += [brightness_tables(brightness_N), np.array(others)]
    if holes:
        arrays.append(np.array(holes, np.float32).T)
    there = iter(sent(arrays, pixels_NHW3.device) if arrays else [])
    if jitters:
        pixels_NHW3 = _jittered(pixels_NHW3, next(there), next(there))
    return _erased(pixels_NHW3, next(there), colour) if holes else pixels_NHW3


def brightness_tables(factors_N: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return what becomes of each value, uint8 [N, 256], by a change of brightness: a blend with black."""
    return np.minimum(factors_N[:, None] * np.arange(256, dtype=np.float32), 255).astype(np.uint8)


def _jittered(pixels_NHW3: Tensor, brighter_N256: Tensor, factors_2N: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of uint8 pixels as `PIL.ImageEnhance` does.

    The first two map single values, so they are looked up in a table for each image.

    Args:
        brighter_N256: what becomes of each value by the change of brightness, uint8.
        factors_2N: of contrast and saturation, float32, at least 0; 1 changes nothing.
    """
    contrast_N1, saturation_N1 = factors_2N[..., None].unbind()
    places_NP = pixels_NHW3.flatten(1).long()
    mean_N1 = mean_grey(brighter_N256.gather(1, places_NP).view_as(pixels_NHW3))
    contrasted_N256 = blended(mean_N1, _levels(mean_N1.device), contrast_N1).gather(1, brighter_N256.long())
    contrasted_NHW3 = contrasted_N256.gather(1, places_NP).view_as(pixels_NHW3)
    return blended(grey(contrasted_NHW3), contrasted_NHW3, saturation_N1[:, :, None, None])


def blended(less: Tensor, more: Tensor, factor: Tensor) -> Tensor:
    """Interpolate, or extrapolate, from `less` to `more`, and return uint8, rounded down as in Pillow's Blend.c.

    On a CPU the product and the sum are rounded one by one, as there; elsewhere together, which takes one kernel less
    and gives another result about once in 100,000 values.

    Args:
        less, factor: float32.
        more: whole numbers; as uint8 they take a fourth of the time.
    """
    apart = more - less
    result = apart.mul_(factor).add_(less) if apart.device.type == "cpu" else torch.addcmul(less, apart, factor)
    return result.clamp_(0, 255).to(torch.uint8)


def grey(pixels_NHW3: Tensor) -> Tensor:
    """Return the luma float32 [N, H, W, 1] of uint8 pixels, by ITU-R 601-2 as Pillow's Convert.c.

    There, it is computed in 16 bits after the point. Float32 does so exactly: no sum has more than 24 bits.
    """
    red, green, blue = pixels_NHW3[..., None].unbind(3)
    luma = torch.add(_half(pixels_NHW3.device), red, alpha=19595 / 65536)
    return luma.add_(green, alpha=38470 / 65536).add_(blue, alpha=7471 / 65536).floor_()


def mean_grey(pixels_NHW3: Tensor) -> Tensor:
    """Return the mean luma [N, 1] of each image, rounded to the nearest integer, float32."""
    count = pixels_NHW3.shape[1] * pixels_NHW3.shape[2]
    rows_NH = grey(pixels_NHW3).sum((2, 3))  # exact: a row's sum has less than 24 bits
    total_N1 = rows_NH.sum(1, keepdim=True, dtype=torch.int64)
    return total_N1.add_(count // 2).div_(count, rounding_mode="floor").float()


@cache
def _half(device: torch.device) -> Tensor:
    return torch.full((1,), 0.5, device=device)


@cache
def _levels(device: torch.device) -> Tensor:
    return torch.arange(256, dtype=torch.float32, device=device)


def _erased(pixels_NHW3: Tensor, holes_4N: Tensor, colour: Tensor) -> Tensor:
    """Fill a box of each image, given by left, top, right and bottom in pixels."""
    _, height, width, _ = pixels_NHW3.shape
    positions = torch.arange(max(height, width), device=pixels_NHW3.device)
    low_2N1, high_2N1 = holes_4N[:2, :, None], holes_4N[2:, :, None]
    columns_NW, rows_NH = ((positions >= low_2N1) & (positions < high_2N1)).unbind()
    inside_NHW1 = rows_NH[:, :height, None, None] & columns_NW[:, None, :width, None]
    return torch.where(inside_NHW1, colour, pixels_NHW3)
