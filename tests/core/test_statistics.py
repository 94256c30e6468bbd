from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from cnn_tl.core.statistics import compare_paired, wilson_interval


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (71, 75), (75, 75), (0, 75), (500, 1000)])
def test_agrees_with_scipy(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_all_or_none_right_ends_at_one_or_nought_for_any_count() -> None:
    for total in [*range(1, 500), 10_000, 123_457]:
        assert wilson_interval(total, total)[1] == 1.0, total
        assert wilson_interval(0, total)[0] == 0.0, total


@pytest.mark.parametrize(("right", "total"), [(0, 0), (2, 1), (-1, 3)])
def test_refuses_nonsense(right: int, total: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(right, total)


def paired(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return np.array(first), np.array(second)


def test_two_models_are_compared_by_the_images_that_only_one_gets_right() -> None:
    found = compare_paired(*paired(60, 1, 9, 5))
    assert (found.only_first, found.only_second) == (1, 9)
    assert found.gain == pytest.approx(8 / 75)
    assert found.p == pytest.approx(2 * 11 / 2**10)  # 0 or 1 of 10, on either side
    assert found.interval[0] < found.gain < found.interval[1]
    worse, even = compare_paired(*paired(60, 9, 1, 5)), compare_paired(*paired(60, 5, 5, 5))
    assert [one.more_than_chance for one in (found, worse, even)] == [True, False, False]
    assert [one.worse_than_chance for one in (found, worse, even)] == [False, True, False]


@pytest.mark.parametrize(("one", "other"), [(0, 0), (0, 1), (4, 4), (4, 5), (0, 60), (300, 400), (20_000, 20_400)])
def test_the_exact_test_agrees_with_scipy(one: int, other: int) -> None:
    expected = binomtest(one, one + other).pvalue if one + other else 1.0
    assert compare_paired(*paired(1, one, other, 0)).p == pytest.approx(expected, rel=1e-9)


def test_the_best_of_several_must_win_by_more() -> None:
    images = paired(60, 1, 9, 5)
    once, best_of_three = compare_paired(*images), compare_paired(*images, chosen_from=3)
    assert best_of_three.p == pytest.approx(3 * once.p)
    assert (once.more_than_chance, best_of_three.more_than_chance) == (True, False)
    assert compare_paired(*paired(3, 1, 1, 0), chosen_from=9).p == 1.0
