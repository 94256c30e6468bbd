"""The learning rate and the order of the pictures, as pure functions of where training is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from cnn_tl.recipe_sections import Train
from cnn_tl.runtime import seed_of

T = TypeVar("T")

ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4 / 25
"""Where one-cycle begins and ends, as shares of its peak: the values of torch.optim.lr_scheduler.OneCycleLR."""


def cosine(progress: float, settings: Train) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def constant(progress: float, settings: Train) -> float:
    """Stay at 1."""
    return 1.0


def stepwise(progress: float, settings: Train) -> float:
    """Multiply by `decay_rate` each time that a share `decay_every` of the steps has passed."""
    assert settings.decay_every is not None, "the recipe is resolved"
    assert settings.decay_rate is not None, "the recipe is resolved"
    return settings.decay_rate ** math.floor(progress / settings.decay_every + 1e-9)


def one_cycle(progress: float, settings: Train) -> float:
    """Fall from 1 to nearly 0 along half a cosine; its warm-up is a cosine too (Smith and Topin 2018)."""
    return ONE_CYCLE_END + (1 - ONE_CYCLE_END) * cosine(progress, settings)


SCHEDULES: dict[str, Callable[[float, Train], float]] = {
    "cosine": cosine,
    "one-cycle": one_cycle,
    "step": stepwise,
    "constant": constant,
}
"""Name -> function from the progress after the warm-up (0 at its end, towards 1) to a share of the peak."""


def learning_rate_factor(step: int, steps: int, settings: Train) -> float:
    """Return the share of the peak learning rate at `step` (0 for the first) of `steps`."""
    warm = round((settings.warmup or 0.0) * steps)
    if step >= warm:
        progress = (step - warm) / max(1, steps - warm)
        return SCHEDULES[settings.schedule or "cosine"](progress, settings)
    if settings.schedule == "one-cycle":
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - cosine(step / warm, settings))
    return (step + 1) / (warm + 1)


def epoch_batches(items: Sequence[T], batch_size: int, seed: int, epoch: int) -> list[list[T]]:
    """Return the epoch's batches, shuffled by (seed, epoch): about `batch_size` each, sizes that differ by one at most.

    None is larger, but for one case: a single picture left over, on which batch normalisation would fail, joins
    another batch.
    """
    parts = math.ceil(len(items) / batch_size)
    if batch_size > 1:
        parts = max(1, min(parts, len(items) // 2))
    order = np.random.default_rng(seed_of(seed, "shuffle", epoch)).permutation(len(items))
    return [[items[i] for i in part] for part in np.array_split(order, parts)]
