"""The time is spent on those that may still win, and not overspent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from cnn_tl.advising.recommend.race import FIRST, Budget, OutOfTime, race


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(eq=False)
class Runner:
    """A candidate of a known accuracy and pace, in seconds per image; it may be slower than it promises."""

    clock: Clock
    accuracy: float
    pace: float = 0.01
    seed: int = 0
    promised: float | None = None
    embedded: int = 0
    judged: list[int] = field(default_factory=list)

    def seconds(self, size: int) -> float:
        return max(0, size - self.embedded) * (self.pace if self.promised is None else self.promised)

    def embed(self, size: int, check: Callable[[], None]) -> None:
        while self.embedded < size:
            check()
            step = min(32, size - self.embedded)
            self.clock.now += step * self.pace
            self.embedded += step

    def judge(self, size: int, check: Callable[[], None]) -> np.ndarray:
        check()
        self.judged.append(size)
        return (np.random.default_rng(self.seed).random(100_000) < self.accuracy)[:size].astype(float)


def test_those_that_are_clearly_worse_are_dropped_and_the_rest_goes_on() -> None:
    clock = Clock()
    good, near, bad = Runner(clock, 0.90), Runner(clock, 0.90, seed=2), Runner(clock, 0.50, seed=1)
    found = race([good, near, bad], 2000, 10, Budget(1e6, clock))
    assert bad.judged == [FIRST]
    assert good.judged == near.judged == [FIRST, 2 * FIRST, 4 * FIRST, 2000]
    assert {id(lane.runner): lane.size for lane in found.lanes} == {id(good): 2000, id(near): 2000, id(bad): FIRST}
    assert not found.out_of_time
    assert not found.skipped


def test_one_winner_ends_it() -> None:
    clock = Clock()
    good, bad = Runner(clock, 0.95), Runner(clock, 0.50, seed=1)
    race([good, bad], 2000, 10, Budget(1e6, clock))
    assert good.judged == [FIRST]


def test_one_candidate_is_judged_once() -> None:
    clock = Clock()
    only = Runner(clock, 0.9)
    found = race([only], 2000, 10, Budget(1e6, clock))
    assert [lane.runner for lane in found.lanes] == [only]
    assert only.judged == [FIRST]


def test_equal_candidates_use_all_images() -> None:
    clock = Clock()
    pair = [Runner(clock, 0.9), Runner(clock, 0.9)]
    found = race(pair, 600, 3, Budget(1e6, clock))
    assert [lane.size for lane in found.lanes] == [600, 600]


@pytest.mark.parametrize("seconds", [4.0, 20.0, 60.0])
def test_the_budget_holds(seconds: float) -> None:
    clock = Clock()
    found = race([Runner(clock, 0.9), Runner(clock, 0.9, 0.02)], 10_000, 10, Budget(seconds, clock))
    assert 0.4 * seconds < clock.now <= seconds
    assert found.out_of_time
    assert len(found.lanes) == 2


def test_what_is_too_slow_is_skipped_not_waited_for() -> None:
    clock = Clock()
    quick, slow = Runner(clock, 0.9), Runner(clock, 0.99, pace=10.0)
    found = race([slow, quick], 2000, 10, Budget(60, clock))
    assert [lane.runner for lane in found.lanes] == [quick]
    assert found.skipped == (slow,)
    assert slow.embedded == 0
    assert found.out_of_time
    assert clock.now <= 60


def test_one_that_is_slower_than_it_promised_is_stopped() -> None:
    clock = Clock()
    quick, liar = Runner(clock, 0.9), Runner(clock, 0.9, pace=5.0, promised=0.02)
    found = race([quick, liar], 2000, 10, Budget(100, clock))
    assert [lane.runner for lane in found.lanes] == [quick]
    assert found.skipped == (liar,)
    assert clock.now <= 100 + 32 * 5.0


def test_a_larger_sample_that_was_not_finished_does_not_count() -> None:
    clock = Clock()

    class Tires(Runner):
        def embed(self, size: int, check: Callable[[], None]) -> None:
            self.pace = 0.01 if size == FIRST else 10.0
            super().embed(size, check)

    pair = [Runner(clock, 0.9), Tires(clock, 0.9, promised=0.01)]
    found = race(pair, 2000, 10, Budget(100, clock))
    assert [lane.size for lane in found.lanes] == [FIRST, FIRST]
    assert found.out_of_time


def test_the_first_one_is_judged_however_late_it_is() -> None:
    clock = Clock()
    found = race([Runner(clock, 0.9, pace=1.0), Runner(clock, 0.9, pace=2.0)], 2000, 10, Budget(0.5, clock))
    assert len(found.lanes) == 1
    assert len(found.skipped) == 1


def test_many_classes_have_some_images_each() -> None:
    clock = Clock()
    only = Runner(clock, 0.9)
    race([only], 50_000, 1000, Budget(1e6, clock))
    assert only.judged == [10_000]
    tight = Runner(clock, 0.9)
    race([tight], 50_000, 1000, Budget(40, clock))
    assert tight.judged[0] == pytest.approx(3_600, rel=0.03)


def test_budget() -> None:
    clock = Clock()
    budget = Budget(10, clock)
    clock.now = 4
    assert (budget.spent, budget.left) == (4, 6)
    budget.check()
    clock.now = 11
    assert budget.left == 0
    with pytest.raises(OutOfTime):
        budget.check()
