"""The learning-rate range test of `--lr auto` (Smith 2017, "Cyclical learning rates", sec. 3.3).

The loss differs more between batches than a learning rate changes it in a few steps, above all with a fitted head. So
each step's loss is divided by the loss of the same batch (images, views, dropout) with the initial weights. The
logarithm of this ratio is smoothed, and the suggestions are found on it; multiplied by the mean initial loss it gives
the line of the plot.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.core.errors import DivergedError
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.training.loop.batches import Batches
from cnn_tl.training.step.gradients import Gradients
from cnn_tl.training.step.loss import Step

LOWEST, HIGHEST, STEPS = 1e-6, 1.0, 60
"""The learning rates, evenly spaced on a logarithmic scale; three steps double the rate."""

DIVERGED_RATIO, DIVERGED_MARGIN = 3.0, 0.1
"""The test ends when the smoothed loss is this many times its minimum and also this much (in nats) above the first
losses. The second condition is for fitted heads: their minimum is nearly 0, and any batch is many times that."""

MIN_STEPS = 8
"""Minimum number of steps for a suggestion."""

MIN_ERRORS = 3.0
"""A change of the loss counts if it is at least this many of its standard errors, at any rate up to the best one: near
the best rate the weights have changed most, and batches differ most."""

MIN_CHANGE = 1e-3
"""And if it is at least this change of the logarithm of the loss."""

SHARE_OF_RISE = 0.1
"""If no rate lowers the loss: the suggestion, as a share of the rate at which the loss begins to rise."""

SMOOTHING = 0.8
"""Weight of the past in the moving average of the losses that ends the test."""

WINDOW = 0.4
"""Standard deviation, in powers of ten, of the weights of the local fit around a rate, for choosing a rate."""

NARROW = 0.25
"""The same for testing whether a change counts, and for the plotted line, which must follow a diverging loss."""

VALLEY, STEEPEST, BELOW_RISE = "valley", "steepest", "below the rise"

DEFAULT: Mapping[str, str] = dict.fromkeys(("finetune", "lp-ft", "auto", "scratch"), STEEPEST)
"""Mode -> its suggestion. The valley is lower, as ratios of losses show a fall from the first rates on: for fine-tuning
on photographs of dishes the valley was 1.7e-5, the steepest point 6.8e-5, and trial and error found 1e-4."""

_ADVICE = "set one by train --lr, or leave --lr out for that of the mode"


class UndecidedError(ValueError):
    """The losses do not distinguish one learning rate from another."""


@dataclass(frozen=True)
class RangeTest:
    """Losses and suggestions of a range test.

    Attributes:
        rates: the learning rates.
        losses: the loss at each rate.
        starts: the loss of the same batches with the initial weights.
        smoothed: the smoothed loss at each rate, without the differences between batches.
        suggestions: valley and steepest point, see `suggest`; empty if the losses are undecided.
        default: the key of the suggestion that the mode uses.
        reason: why there are other suggestions or none, as a sentence; otherwise empty.
    """

    rates: list[float]
    losses: list[float]
    starts: list[float]
    smoothed: list[float]
    suggestions: dict[str, float] = field(default_factory=dict)
    default: str = STEEPEST
    reason: str = ""

    def __repr__(self) -> str:
        """Return for example `<RangeTest of 48 rates: suggests 0.0012>`, or why it suggests none."""
        found = self.reason if self.suggestion is None else f"suggests {self.suggestion:.2g}"
        return f"<RangeTest of {len(self.rates)} rates: {found}>"

    @property
    def suggestion(self) -> float | None:
        """The suggestion for the mode; None if the losses are undecided."""
        return self.suggestions.get(self.default)


def range_test(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradients: Gradients,
    batches: Batches,
    targets_of: Callable[[Sequence[ImageRecord]], Tensor],
    advance: Callable[[int], None],
    mode: str = "finetune",
) -> RangeTest:
    """Raise the learning rate from step to step until the loss diverges; then restore the model.

    Args:
        optimizer: a new one, which must not be used afterwards.
        targets_of: the target probabilities [N, K] of a step's images.
        advance: called after each step with the number of its images.
        mode: of the run, which decides the default suggestion.

    Raises:
        DivergedError: the loss is not finite at the lowest rates already, or there are too few losses.
    """
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    at_start = {name: tensor.clone() for name, tensor in before.items()}
    rates, losses, starts = [], [], []
    try:
        tried = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()
        for number, (rate, step) in enumerate(zip(tried, _endless_steps(batches), strict=False)):
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.zero_grad()
            targets_NK = targets_of(step.images) * step.counts
            where = {"first": step.first, "total": step.total}
            losses_of_step = gradients.add(step.x, targets_NK, number, **where)
            loss = losses_of_step[0].item() / step.total
            if not math.isfinite(loss):
                if number < MIN_STEPS:
                    raise DivergedError(
                        f"the loss is not finite at a learning rate of {rate:.2g} already, so none can be suggested; "
                        "try --set run.precision=fp32, or other weights"
                    )
                break
            rates.append(rate)
            losses.append(loss)
            start = gradients.loss_with(model, at_start, step.x, targets_NK, number, **where)
            starts.append(start.item() / step.total)
            advance(step.total)
            if has_diverged(losses):
                break
            optimizer.step()
    finally:
        model.load_state_dict(before)
        model.zero_grad()
    return evaluated(rates, losses, starts, mode)


def evaluated(rates: Sequence[float], losses: Sequence[float], starts: Sequence[float], mode: str) -> RangeTest:
    """Return the result of a test with these losses.

    Raises:
        DivergedError: too few losses to tell.
    """
    measured = (list(rates), list(losses), list(starts), course(rates, losses, starts))
    try:
        suggestions = suggest(rates, losses, starts)
    except UndecidedError as undecided:
        return RangeTest(*measured, reason=str(undecided))
    if BELOW_RISE in suggestions:
        why = "no learning rate lowered the loss clearly, so this is a tenth of the one from which on it rises"
        return RangeTest(*measured, suggestions, BELOW_RISE, why)
    return RangeTest(*measured, suggestions, DEFAULT[mode])


def images_in(batches: Batches) -> int:
    """Return the number of images of a test that reaches the highest rate."""
    steps = itertools.chain.from_iterable(map(batches.of_epoch, itertools.count(1)))
    return sum(map(len, itertools.islice(steps, STEPS)))


def _endless_steps(batches: Batches) -> Iterator[Step]:
    """Yield the steps of one epoch after another."""
    for epoch in itertools.count(1):
        batches.prepare(epoch)
        with batches.steps(epoch, 0) as steps:
            yield from steps


def has_diverged(losses: Sequence[float]) -> bool:
    """Return whether the loss has diverged, so that the test can end."""
    if len(losses) < MIN_STEPS:
        return False
    smoothed = smooth(losses)
    return smoothed[-1] > max(DIVERGED_RATIO * min(smoothed), max(losses[:MIN_STEPS]) + DIVERGED_MARGIN)


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of the losses, corrected for its start."""
    average, smoothed = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**count))
    return smoothed


def suggest(rates: Sequence[float], losses: Sequence[float], starts: Sequence[float]) -> dict[str, float]:
    """Return the suggested rates by name, as fastai defines them, on the smoothed loss.

    `steepest` is the rate at which the loss falls fastest against the logarithm of the rate, before its minimum.
    `valley` is the middle of the longest decreasing subsequence of the loss, without the first tenth of the rates. If
    no rate lowers the loss clearly, `below the rise` is a tenth of the rate at which it begins to rise.

    Raises:
        DivergedError: too few losses to tell.
        UndecidedError: no rate changes the loss clearly.
    """
    if len(losses) < MIN_STEPS:
        raise DivergedError(f"{len(losses)} losses are too few to tell rates apart, so none can be suggested")
    change = _change(losses, starts)
    capped = np.minimum(change, _divergence_limit(change))
    level, slopes = _local_lines(rates, capped)[:2]
    near, _, errors = _local_lines(rates, capped, NARROW)
    threshold = np.maximum(MIN_ERRORS * errors, MIN_CHANGE)
    lowest = int(level.argmin())
    if lowest > 0 and (near < -threshold)[: lowest + 1].any():
        steepest = 1 + int((np.exp(level) * slopes)[1 : lowest + 1].argmin())
        skipped = len(rates) // 10
        fall = [skipped + place for place in longest_fall(level[skipped:].tolist())]
        return {VALLEY: float(rates[fall[len(fall) // 2]]), STEEPEST: float(rates[steepest])}
    rising = np.flatnonzero(near > threshold)
    if len(rising):
        return {BELOW_RISE: float(SHARE_OF_RISE * rates[int(rising[0])])}
    raise UndecidedError(
        f"no learning rate from {rates[0]:.0e} to {rates[-1]:.2g} changed the loss ({np.mean(starts):.2g} at first) "
        f"by more than chance, so none can be suggested: there is little left to learn, or batches are small; {_ADVICE}"
    )


def longest_fall(values: Sequence[float]) -> list[int]:
    """Return the indices of the longest strictly decreasing subsequence; of several, the first."""
    ends: list[float] = []  # the highest last value, negated, of a fall of each length
    places: list[int] = []
    before: list[int] = []
    for place, value in enumerate(values):
        length = bisect_left(ends, -value)
        before.append(places[length - 1] if length else -1)
        ends[length : length + 1], places[length : length + 1] = [-value], [place]
    fall = []
    place = places[-1] if places else -1
    while place >= 0:
        fall.append(place)
        place = before[place]
    return fall[::-1]


def course(rates: Sequence[float], losses: Sequence[float], starts: Sequence[float]) -> list[float]:
    """Return the smoothed loss at each rate, without the differences between batches."""
    if len(losses) == 0:
        return []
    level, _, _ = _local_lines(rates, _change(losses, starts), NARROW)
    offset = _offset(starts)
    smooth: list[float] = ((np.mean(starts) + offset) * np.exp(level) - offset).tolist()
    return smooth


def _change(losses: Sequence[float], starts: Sequence[float]) -> NDArray[np.float64]:
    """Return log(loss / loss with the initial weights) for each batch."""
    offset = _offset(starts)
    return np.log((np.asarray(losses) + offset) / (np.asarray(starts) + offset))


def _offset(starts: Sequence[float]) -> float:
    """Return what is added to both losses of a batch, as the ratio of two tiny losses is noise."""
    return 0.1 * float(np.mean(starts)) + 1e-12


def _divergence_limit(change: NDArray[np.float64]) -> float:
    """Return the change beyond which the loss has diverged: as far up as the best rate lowers it, but at least 0.1.

    The first rates change nothing yet, so higher changes among them are noise, and raise the limit.
    """
    early = change[: max(1, len(change) // 4)]
    return max(float(early.max()), -float(change.min()), DIVERGED_MARGIN)


def _local_lines(
    rates: Sequence[float], y: NDArray[np.float64], window: float = WINDOW
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit a line around each rate by least squares with Gaussian weights (Cleveland 1979, with another kernel).

    A moving average would lag behind the loss, so that the suggestion would be nearly twice as high.

    Returns:
        The values and the slopes of the lines, and the standard errors of the values, all [N].
    """
    x = np.log10(rates)
    weights = np.exp(-0.5 * ((x - x[:, None]) / window) ** 2)
    weights /= weights.sum(1, keepdims=True)
    x_mean, y_mean = weights @ x, weights @ y
    distances = x - x_mean[:, None]
    slopes = ((weights * distances) @ y) / np.maximum((weights * distances**2).sum(1), 1e-12)
    level = y_mean + slopes * (x - x_mean)
    errors = np.sqrt((weights**2) @ (y - level) ** 2)
    return level, slopes, errors
