"""Differences in pairs: the interval of one repetition is the known one, and groups widen it. The Pareto front."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.advising.recommend.comparing import difference, on_front, told_apart
from cnn_tl.core.statistics import compare_paired

RANDOM = np.random.default_rng(0)


def scores(right: int, wrong: int) -> np.ndarray:
    return np.concatenate([np.ones(right), np.zeros(wrong)])


@pytest.mark.parametrize("seed", range(4))
def test_one_repetition_has_the_interval_of_bonett_and_price(seed: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.random(80) < 0.7, random.random(80) < 0.8
    expected = compare_paired(first, second)
    found = difference(first.astype(float), second.astype(float), np.arange(80))
    assert found.gain == pytest.approx(expected.gain)
    assert found.interval == pytest.approx(expected.interval)


def test_images_of_a_group_count_as_little_more_than_one() -> None:
    first, second = RANDOM.random(100) < 0.6, RANDOM.random(100) < 0.7
    alone = difference(first.astype(float), second.astype(float))
    one, other = (np.repeat(scores.astype(float), 4) for scores in (first, second))
    grouped, apart = difference(one, other, np.repeat(np.arange(100), 4)), difference(one, other)
    assert np.diff(grouped.interval) == pytest.approx(np.diff(alone.interval), rel=0.05)
    assert np.diff(apart.interval) < 0.6 * np.diff(alone.interval)


def test_equal_backbones_cannot_be_told_apart_and_others_can() -> None:
    same = difference(scores(90, 10), scores(90, 10))
    assert same.gain == 0
    assert same.p == pytest.approx(1)
    worse = difference(scores(190, 10), scores(120, 80))
    assert told_apart([same, worse], 0.05) == [False, True]
    assert told_apart([], 0.05) == []


def test_the_level_is_shared_by_all_comparisons() -> None:
    one = difference(scores(400, 0), np.concatenate([scores(393, 0), np.zeros(7)]))
    assert 0.0125 < one.p < 0.05
    assert told_apart([one], 0.05) == [True]
    assert told_apart([one, one, one, one], 0.05) == [False] * 4


def test_front() -> None:
    assert on_front([(3, 1), (2, 2), (2, 1), (1, 3), (1, 3)]) == [True, True, False, True, True]
    assert on_front([(1.0,)]) == [True]
