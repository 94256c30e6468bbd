"""A learning-rate range test (Smith 2017, "Cyclical learning rates", sec. 3.3): what `--lr auto` goes by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cnn_tl.data.manifest import Picture
from cnn_tl.errors import DivergedError
from cnn_tl.training.feed import Feed
from cnn_tl.training.step import Gradients

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 60
"""The rates that are tried, at even distances on a logarithmic scale; three steps double the rate."""

GONE = 3.0
"""The test ends where the smoothed loss is so many times its lowest: beyond, there is only divergence."""

SMOOTHING = 0.8
"""Weight of the past in the moving average of the losses."""


@dataclass(frozen=True)
class RangeTest:
    """What the test measured: the rates tried, the loss at each, the same smoothed, and the rate that they suggest."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float


def range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradients: Gradients,
    feed: Feed,
    targets_of: Callable[[Sequence[Picture]], Tensor],
    advance: Callable[[], None],
) -> RangeTest:
    """Raise the learning rate from step to step until the loss runs away; leave the model as it was.

    Args:
        optimizer: a fresh one, which is of no use afterwards.
        targets_of: the target probabilities [N, K] of a step's pictures.
        advance: called after each step.

    Raises:
        DivergedError: the loss is not finite at the lowest rates already.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rates, losses = [], []
    try:
        tried = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()
        for step, (rate, (pictures, x)) in enumerate(zip(tried, _endless(feed), strict=False)):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.zero_grad()
            loss = gradients.add(x, targets_of(pictures), step).item() / len(pictures)
            if not math.isfinite(loss):
                break
            rates.append(rate)
            losses.append(loss)
            advance()
            lowest = min(smooth(losses))
            if smooth(losses)[-1] > GONE * lowest:
                break
            optimizer.step()
    finally:
        model.load_state_dict(before)
        model.zero_grad()
    return RangeTest(rates, losses, smooth(losses), suggest(rates, losses))


def _endless(feed: Feed) -> Iterator[tuple[Sequence[Picture], Tensor]]:
    """Yield the steps of one epoch after the other."""
    epoch = 1
    while True:
        feed.prepare(epoch)
        with feed.inputs(epoch, 0) as inputs:
            yield from inputs
        epoch += 1


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of the losses, corrected for its start."""
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


def suggest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return the rate at which the smoothed loss falls fastest (against the logarithm of the rate), before its lowest.

    Raises:
        DivergedError: too few losses to tell.
    """
    if len(losses) < 8:
        raise DivergedError("the loss is not finite at tiny learning rates already, so none can be suggested")
    smoothed = np.array(smooth(losses))
    lowest = max(2, int(smoothed.argmin()))
    slopes = np.gradient(smoothed, np.log(rates))
    return float(rates[int(slopes[1 : lowest + 1].argmin()) + 1])
