"""The length of a run, its learning rate and the order of its images, as pure functions of step and epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of
from cnn_tl.data.manifest import Manifest
from cnn_tl.recipe.resolved import LoopRecipe, LoopTrain
from cnn_tl.training.context import Run

T = TypeVar("T")


@dataclass(frozen=True)
class LoopLength:
    """The length of a loop; the last epoch may be cut short."""

    steps_per_epoch: int
    steps: int

    @property
    def epochs(self) -> int:
        """Number of epochs, including a last one that is cut short."""
        return -(-self.steps // self.steps_per_epoch)


def loop_length(run: Run[LoopRecipe], manifest: Manifest) -> LoopLength:
    """Return the length of the loop of a run, for the training images in the manifest."""
    steps_per_epoch = batches_in_epoch(len(manifest.of("train")), run.batch_size)
    return LoopLength(steps_per_epoch, run.recipe.train.length.steps(steps_per_epoch))


ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-4 / 25
"""Start and end of one-cycle as shares of its peak, as in torch.optim.lr_scheduler.OneCycleLR."""


def cosine(progress: float, settings: LoopTrain) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def constant(progress: float, settings: LoopTrain) -> float:
    """Stay at 1."""
    return 1.0


def stepwise(progress: float, settings: LoopTrain) -> float:
    """Multiply by `decay_rate` after each share `decay_every` of the steps."""
    return settings.decay_rate ** math.floor(progress / settings.decay_every + 1e-9)


SCHEDULES: dict[str, Callable[[float, LoopTrain], float]] = {
    "cosine": cosine,
    "step": stepwise,
    "constant": constant,
}
"""Name -> function from progress after the linear warm-up, from 0 to 1, to a share of the peak."""


def learning_rate_factor(step: int, steps: int, settings: LoopTrain) -> float:
    """Return the share of the peak learning rate at `step` (0 for the first) of `steps`."""
    if settings.schedule == "one-cycle":
        return one_cycle(step, steps, settings)
    warm = round(settings.warmup * steps)
    if step >= warm:
        progress = (step - warm) / max(1, steps - warm)
        return SCHEDULES[settings.schedule](progress, settings)
    return (step + 1) / (warm + 1)


def one_cycle(step: int, steps: int, settings: LoopTrain) -> float:
    """Rise to 1 over a share `warmup` of the steps, then fall to nearly 0 at the last one, each along half a cosine.

    Smith and Topin 2018; the same values as torch.optim.lr_scheduler.OneCycleLR.
    """
    peak, last = settings.warmup * steps - 1, steps - 1
    if step <= peak:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - cosine(step / peak if peak else 1.0, settings))
    if last == 0:
        return 1.0
    return ONE_CYCLE_END + (1 - ONE_CYCLE_END) * cosine((step - peak) / (last - peak), settings)


def epoch_batches(items: Sequence[T], batch_size: int, seed: int, epoch: int) -> list[list[T]]:
    """Return the epoch's batches, shuffled by (seed, epoch); their sizes differ by at most one.

    No batch is larger than `batch_size`, with one exception: a single leftover image, on which batch normalisation
    would fail, joins another batch.
    """
    order = np.random.default_rng(seed_of(seed, "shuffle", epoch)).permutation(len(items))
    return _in_batches(items, order, batch_size)


def balanced_batches(
    items: Sequence[T], labels: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[T]]:
    """Return an epoch in which all classes are drawn equally often (to within one); sizes as in `epoch_batches`.

    An epoch draws as many items as there are. Each class goes through its items in shuffled passes and continues in the
    next epoch where it stopped: no item repeats before all others of its class have been used, and over many epochs
    all items of a class are used equally often. So an epoch may repeat items of a rare class, and omits some of a
    frequent one.

    Args:
        labels: the class of each item.
        epoch: 1 for the first.
    """
    members = [np.flatnonzero(np.equal(labels, label)) for label in np.unique(labels)]
    draws = _draws(len(items), len(members), seed, epoch)
    drawn = [
        _passes(own, start, stop, (seed, "balanced", number))
        for number, (own, (start, stop)) in enumerate(zip(members, draws, strict=True))
    ]
    order = np.random.default_rng(seed_of(seed, "shuffle", epoch)).permutation(np.concatenate(drawn))
    return _in_batches(items, order, batch_size)


def _draws(total: int, classes: int, seed: int, epoch: int) -> list[tuple[int, int]]:
    """Return for each class its number of draws from the first epoch on, before and after this epoch.

    If the draws do not divide evenly, the extra ones rotate among the classes, in an order given by the seed.
    """
    each, left = divmod(total, classes)
    turns = np.random.default_rng(seed_of(seed, "turns")).permutation(classes)

    def until(epoch: int, turn: int) -> int:
        return epoch * each + (epoch * left - turn + classes - 1) // classes

    return [(until(epoch - 1, int(turn)), until(epoch, int(turn))) for turn in turns]


def _passes(own: NDArray[np.intp], start: int, stop: int, name: tuple[int | str, ...]) -> NDArray[np.intp]:
    """Return elements `start` to `stop` of an endless sequence of shuffled passes over the items of a class."""
    first, last = start // len(own), max(start, stop - 1) // len(own)
    row = [np.random.default_rng(seed_of(*name, number)).permutation(own) for number in range(first, last + 1)]
    return np.concatenate(row)[start - first * len(own) : stop - first * len(own)]


def batches_in_epoch(items: int, batch_size: int) -> int:
    """Return the number of batches of an epoch that draws this many items."""
    parts = math.ceil(items / batch_size)
    return parts if batch_size == 1 else max(1, min(parts, items // 2))


def _in_batches(items: Sequence[T], order: NDArray[np.intp], batch_size: int) -> list[list[T]]:
    parts = batches_in_epoch(len(order), batch_size)
    return [[items[i] for i in part] for part in np.array_split(order, parts)]
