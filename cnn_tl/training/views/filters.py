"""Pillow's resampling filters as tensor functions, by the name that a preprocessing specification gives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Filter:
    """A resampling filter.

    Attributes:
        support: its weight is 0 from this distance on, in pixels, where an image is enlarged.
        weight: distance of a pixel's centre from the sample's -> weight, before weights are divided by their sum; may
            change its argument.
        antialiased: where an image is reduced, the filter becomes wider in proportion.
    """

    support: float
    weight: Callable[[Tensor], Tensor]
    antialiased: bool = True


def _bilinear(distance: Tensor) -> Tensor:
    return (1 - distance.abs_()).relu_()


def _bicubic(distance: Tensor) -> Tensor:
    """Return twice Keys's cubic convolution (1981) with a = -0.5, as 2 v^2 (1 - 2v) + u^2 (u - 1).

    Here v is by how much the distance is below 1, and u by how much it is below 2, both at least 0: the second term is
    the outer part of the filter, the first what the inner one differs by.
    """
    below = 1 - distance.abs_()
    v = below.clamp(min=0)
    outer = below.clamp_(min=-1)  # u - 1
    u = outer + 1
    return (v * v).mul_(torch.rsub(v, 2, alpha=4)).add_(u.mul_(u).mul_(outer))


def _lanczos(distance: Tensor) -> Tensor:
    return torch.sinc(distance) * torch.sinc(distance / 3) * (distance.abs_() < 3)


FILTERS = {
    "nearest": Filter(0.5, torch.ones_like, antialiased=False),
    "bilinear": Filter(1.0, _bilinear),
    "bicubic": Filter(2.0, _bicubic),
    "lanczos": Filter(3.0, _lanczos),
}
"""Name -> the filter that Pillow's `Image.resize` uses under this name (Resample.c)."""
