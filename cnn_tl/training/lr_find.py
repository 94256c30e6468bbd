"""A learning-rate range test (Smith 2017, "Cyclical learning rates", sec. 3.3): what `--lr auto` goes by."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.data.manifest import Picture
from cnn_tl.errors import DivergedError
from cnn_tl.optimisation.step import Gradients
from cnn_tl.training.feed import Feed, Step

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 60
"""The rates that are tried, at even distances on a logarithmic scale; three steps double the rate."""

GONE, GONE_BY = 3.0, 0.1
"""The test ends where the smoothed loss is so many times its lowest, and by so much (in nats) above all of the first
losses: beyond, there is only divergence. Under a fitted head the lowest is nearly 0, and any batch many times that."""

LEAST_STEPS = 8
"""So many steps are made at least; from fewer losses nothing can be told."""

CLEAR = 1.1
"""The loss must fall by so many standard deviations of the first batches' losses: some three of the fall itself, which
lies between two means of about 15 batches each. Under a fitted head the steepest place is otherwise a batch's luck."""

SMOOTHING = 0.8
"""Weight of the past in the moving average of the losses, by which the test ends."""

WINDOW = 0.4
"""Standard deviation of the weights around a rate, in powers of ten."""

_ADVICE = "set one by train --lr, or leave --lr out for that of the mode"


class UndecidedError(ValueError):
    """The losses do not tell one learning rate from another."""


@dataclass(frozen=True)
class RangeTest:
    """What the test measured.

    Attributes:
        rates, losses: what was tried, and the loss at each. smoothed: the course of the losses to their lowest.
        suggestion: None where the losses do not tell one rate from another. reason: why, in a sentence.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None
    reason: str = ""

    def __repr__(self) -> str:
        """Return such as `<RangeTest of 48 rates: suggests 0.0012>`, or why it suggests none."""
        found = self.reason if self.suggestion is None else f"suggests {self.suggestion:.2g}"
        return f"<RangeTest of {len(self.rates)} rates: {found}>"


def range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradients: Gradients,
    feed: Feed,
    targets_of: Callable[[Sequence[Picture]], Tensor],
    advance: Callable[[int], None],
) -> RangeTest:
    """Raise the learning rate from step to step until the loss runs away; leave the model as it was.

    Args:
        optimizer: a fresh one, which is of no use afterwards.
        targets_of: the target probabilities [N, K] of a step's pictures.
        advance: called after each step with the number of its pictures.

    Raises:
        DivergedError: the loss is not finite at the lowest rates already, or there are too few.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rates, losses = [], []
    try:
        tried = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()
        for number, (rate, step) in enumerate(zip(tried, _endless(feed), strict=False)):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.zero_grad()
            targets_NK = targets_of(step.pictures) * step.counts
            losses_of_step = gradients.add(step.x, targets_NK, number, first=step.first, total=step.total)
            loss = losses_of_step[0].item() / step.total
            if not math.isfinite(loss):
                if number < LEAST_STEPS:
                    raise DivergedError(
                        f"the loss is not finite at a learning rate of {rate:.2g} already, so none can be suggested; "
                        "try --set run.precision=fp32, or other weights"
                    )
                break
            rates.append(rate)
            losses.append(loss)
            advance(step.total)
            if is_gone(losses):
                break
            optimizer.step()
    finally:
        model.load_state_dict(before)
        model.zero_grad()
    try:
        return RangeTest(rates, losses, falling(rates, losses), suggest(rates, losses))
    except UndecidedError as undecided:
        return RangeTest(rates, losses, falling(rates, losses), None, str(undecided))


def pictures_in(feed: Feed) -> int:
    """Return how many pictures pass the network where the test goes on to the highest rate."""
    batches = itertools.chain.from_iterable(map(feed.batches, itertools.count(1)))
    return sum(map(len, itertools.islice(batches, STEPS)))


def _endless(feed: Feed) -> Iterator[Step]:
    """Yield the steps of one epoch after the other."""
    epoch = 1
    while True:
        feed.prepare(epoch)
        with feed.inputs(epoch, 0) as inputs:
            yield from inputs
        epoch += 1


def is_gone(losses: Sequence[float]) -> bool:
    """Say whether the loss has run away, so that higher rates need not be tried."""
    if len(losses) < LEAST_STEPS:
        return False
    smoothed = smooth(losses)
    return smoothed[-1] > max(GONE * min(smoothed), max(losses[:LEAST_STEPS]) + GONE_BY)


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of the losses, corrected for its start."""
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the loss falls fastest (against the logarithm of the rate), before its lowest.

    Raises:
        DivergedError: too few losses to tell.
        UndecidedError: none of the rates lowered the loss, or not clearly.
    """
    if len(losses) < LEAST_STEPS:
        raise DivergedError(f"{len(losses)} losses are too few to tell rates apart, so none can be suggested")
    level, slopes = _lines(rates, losses)
    falling_N = slopes[1 : max(2, int(level.argmin())) + 1]
    if falling_N.min() > -1e-6 * np.abs(level).max():  # rounding aside, it never falls
        raise UndecidedError(f"no learning rate lowered the loss, so none can be suggested; {_ADVICE}")
    first = max(LEAST_STEPS, len(losses) // 4)
    spread, fall = float(np.std(losses[:first] - level[:first])), float(level[:first].mean() - level.min())
    if fall < CLEAR * spread:
        raise UndecidedError(
            f"the loss ({np.mean(losses[:first]):.2g} at the start) differs more between batches than by learning "
            f"rates, so none can be suggested: there is little left to learn, or the batches are small; {_ADVICE}"
        )
    return float(rates[int(falling_N.argmin()) + 1])


def falling(rates: Sequence[float], losses: Sequence[float]) -> list[float]:
    """Return the smooth course of the losses that `suggest` goes by, from the first down to the lowest."""
    if len(losses) == 0:
        return []
    level, _ = _lines(rates, losses)
    course: list[float] = level[: int(level.argmin()) + 1].tolist()
    return course


def _lines(rates: Sequence[float], losses: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a line around each rate, by least squares with Gaussian weights (Cleveland 1979, with another kernel).

    A moving average would lag behind the loss, and so suggest a rate that is nearly twice as high.

    Returns:
        The values and the slopes of the lines, both [N].
    """
    x = np.log10(rates)
    highest = max(losses[: max(1, len(losses) // 4)])  # at rates that change nothing yet; above it lies divergence
    y = np.minimum(losses, highest)
    weights = np.exp(-0.5 * ((x - x[:, None]) / WINDOW) ** 2)
    weights /= weights.sum(1, keepdims=True)
    x_mean, y_mean = weights @ x, weights @ y
    distances = x - x_mean[:, None]
    slopes = ((weights * distances) @ y) / np.maximum((weights * distances**2).sum(1), 1e-12)
    return y_mean + slopes * (x - x_mean), slopes
