"""Spends the time: all candidates on a small sample, those that are not clearly worse on larger ones.

This is successive halving (Jamieson and Talwalkar 2016, sec. 3), except that a candidate is dropped because it is worse
by more than chance, not because half of them must go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.advising.recommend.comparing import difference, told_apart
from cnn_tl.advising.recommend.probing import Scores

FIRST = 250
"""Images of the first sample, if time allows."""

LEAST = 100
"""Images of the smallest sample."""

PER_CLASS, LEAST_PER_CLASS = 10, 3
"""Images of each class in these."""

WORTH = 1.25
"""A larger sample is worth its time only if it is so many times as large."""

DROPPED_AT = 0.01
"""A candidate is dropped at this level of significance; several samples give several chances to be wrong."""

SHARE = 0.9
"""Of the time that is left, what a sample may be expected to take."""


class OutOfTime(Exception):  # noqa: N818 - never leaves this package
    """The budget is spent."""


class Budget:
    """Counts the time.

    Args:
        seconds: how much there is. clock: what time it is, in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock, self._started = seconds, clock, clock()

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._started

    @property
    def left(self) -> float:
        """Seconds until the end, not below 0."""
        return max(0.0, self.seconds - self.spent)

    def check(self) -> None:
        """Raise `OutOfTime` at the end."""
        if self.spent > self.seconds:
            raise OutOfTime


class Runner(Protocol):
    """A candidate, as the race sees it."""

    def seconds(self, size: int) -> float:
        """Return the expected time for judging it on a sample of so many images."""
        ...

    def embed(self, size: int, check: Callable[[], None]) -> None:
        """Compute what its features on a sample lack; `check` is called in between."""
        ...

    def judge(self, size: int, check: Callable[[], None]) -> Scores:
        """Return the scores of the judged images of a sample on which all have been embedded."""
        ...


R = TypeVar("R", bound=Runner)


@dataclass(eq=False)
class Lane(Generic[R]):
    """How far a candidate came: its scores on each sample, by the size of the sample."""

    runner: R
    scores: dict[int, Scores] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The size of the largest sample on which it was judged."""
        return max(self.scores)


@dataclass(frozen=True)
class Race(Generic[R]):
    """The outcome.

    Attributes:
        lanes: the candidates that were judged at all.
        skipped: those that were not, for lack of time.
        out_of_time: whether a larger sample would have been taken, had there been time.
    """

    lanes: tuple[Lane[R], ...]
    skipped: tuple[R, ...]
    out_of_time: bool


def race(
    runners: Sequence[R],
    available: int,
    num_classes: int,
    budget: Budget,
    groups_of: Callable[[int], NDArray[np.int64] | None] = lambda size: None,
) -> Race[R]:
    """Judge candidates on samples of growing size, until one is left, all images are used, or the time is over.

    Args:
        available: how many images there are at most.
        groups_of: size of a sample -> the group of each of its judged images.
    """
    size, admitted = _begin(runners, available, num_classes, budget)
    lanes = [Lane(one) for one in admitted]
    skipped = [one for one in runners if one not in admitted]
    finished = _first(lanes, size, budget)
    skipped += [lane.runner for lane in lanes if lane not in finished]
    running, out_of_time = finished, bool(skipped)
    while size < available and not out_of_time:
        running = still_running(running, size, groups_of(size))
        if len(running) < 2:
            break
        larger = _next(running, size, available, budget)
        if larger is None or not _all(running, larger, budget):
            out_of_time = True
            break
        size = larger
    return Race(tuple(finished), tuple(skipped), out_of_time)


def first_size(available: int, num_classes: int) -> int:
    """Return the size of the first sample, if time allows."""
    return min(available, max(FIRST, PER_CLASS * num_classes))


def _begin(runners: Sequence[R], available: int, num_classes: int, budget: Budget) -> tuple[int, list[R]]:
    """Return the size of the first sample, and the candidates for which there is time, the quickest first."""
    first = first_size(available, num_classes)
    least = min(available, max(LEAST, LEAST_PER_CLASS * num_classes))
    room = SHARE * budget.left
    size = _largest(least, first, lambda size: sum(one.seconds(size) for one in runners) <= room) or least
    admitted: list[R] = []
    for one in sorted(runners, key=lambda one: one.seconds(size)):
        needed = one.seconds(size)
        if needed <= room or not admitted:
            admitted.append(one)
            room -= needed
    return size, admitted


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest size from `low` to `high` that fits, to about 2%; None if none does."""
    while high > low and not fits(high):
        high = max(low, min(high - 1, int(0.98 * high)))
    return high if fits(high) else None


def _first(lanes: Sequence[Lane[R]], size: int, budget: Budget) -> list[Lane[R]]:
    """Judge all on the first sample; leave out those for which the time does not suffice, but never the first one."""
    embedded = []
    for number, lane in enumerate(lanes):
        try:
            lane.runner.embed(size, budget.check if number else _never)
        except OutOfTime:
            break
        embedded.append(lane)
    for number, lane in enumerate(embedded):
        try:
            lane.scores[size] = lane.runner.judge(size, budget.check if number else _never)
        except OutOfTime:
            break
    return [lane for lane in embedded if lane.scores]


def _never() -> None:
    """Without one candidate there is no answer, however late it is."""


def _all(lanes: Sequence[Lane[R]], size: int, budget: Budget) -> bool:
    """Judge all on a larger sample; return whether the time was enough, else nothing of it counts."""
    found = []
    try:
        for lane in lanes:
            lane.runner.embed(size, budget.check)
        for lane in lanes:
            found.append(lane.runner.judge(size, budget.check))
    except OutOfTime:
        return False
    for lane, scores in zip(lanes, found, strict=True):
        lane.scores[size] = scores
    return True


def still_running(lanes: Sequence[Lane[R]], size: int, groups: NDArray[np.int64] | None) -> list[Lane[R]]:
    """Return the candidates that are not clearly worse than the best one on a sample."""
    best = max(lanes, key=lambda lane: float(lane.scores[size].mean()))
    others = [lane for lane in lanes if lane is not best]
    apart = told_apart([difference(best.scores[size], one.scores[size], groups) for one in others], DROPPED_AT)
    worse = {id(one) for one, is_apart in zip(others, apart, strict=True) if is_apart}
    return [lane for lane in lanes if id(lane) not in worse]


def _next(lanes: Sequence[Lane[R]], size: int, available: int, budget: Budget) -> int | None:
    """Return the size of the next sample; None if the time is not enough for one that is worth it."""
    high = min(2 * size, available)
    low = min(int(WORTH * size), high)
    return _largest(low, high, lambda more: sum(lane.runner.seconds(more) for lane in lanes) <= SHARE * budget.left)
