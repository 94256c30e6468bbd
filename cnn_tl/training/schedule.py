"""The learning rate and the order of the pictures, as pure functions of where training is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from cnn_tl.runtime import seed_of

T = TypeVar("T")


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate at `step` of `steps`: linear warm-up, then a cosine to zero.

    (Loshchilov and Hutter 2017, without restarts.)

    Args:
        step: 0 for the first.
        warmup: the share of the steps that warm up.
    """
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


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
