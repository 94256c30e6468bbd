"""A test of views on a device that nobody has tried: not every back end of torch has every operation."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import torch

from cnn_tl.core.preprocessing import Interpolation, Preprocessing
from cnn_tl.data.views.augment import Augmentation, draw_view
from cnn_tl.data.views.image_source import source_side
from cnn_tl.training.views.random_views import RandomViews
from cnn_tl.training.views.source_batch import SourceBatch

VIEWS = 64
_SPEC = Preprocessing(32, 32, "bicubic", 0.875, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_FILTERS: tuple[Interpolation, ...] = ("bicubic", "lanczos")
"""They need all operations that any filter needs."""

MOST = 0.5
"""Maximum mean difference from the same views on the CPU, in 255ths."""


@cache
def agrees(device: torch.device, settings: Augmentation) -> bool:
    """Return whether a device computes the views that the CPU computes, tried on small images of noise."""
    return all(_apart(device, replace(_SPEC, interpolation=name), settings) <= MOST for name in _FILTERS)


def _apart(device: torch.device, spec: Preprocessing, settings: Augmentation) -> float:
    """Return the mean difference between the device's views and the CPU's; infinite if there are none."""
    side = source_side(spec, settings)
    generator = torch.Generator().manual_seed(0)
    sources = SourceBatch(
        torch.randint(0, 256, (VIEWS * side * side, 3), dtype=torch.uint8, generator=generator),
        torch.arange(VIEWS) * side * side,
        torch.full((VIEWS,), side - 5),
        torch.full((VIEWS,), side),
    )
    drawn = [draw_view(side, side - 5, spec, settings, seed) for seed in range(VIEWS)]
    try:
        there = SourceBatch(*(tensor.to(device) for tensor in vars(sources).values()))
        found = RandomViews(spec, settings, device)(there, drawn).cpu()
    except (RuntimeError, TypeError):  # an operation is missing, or not for these types
        return math.inf
    expected = RandomViews(spec, settings, torch.device("cpu"))(sources, drawn)
    return (found.float() - expected.float()).abs().mean().item()
