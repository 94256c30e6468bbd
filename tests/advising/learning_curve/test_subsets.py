"""Nested, stratified subsets: groups stay whole, no class is missing, each image is judged once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from cnn_tl.advising.learning_curve.subsets import distinct, draws_of, sizes_up_to
from cnn_tl.core.errors import DataError

LABELS = np.repeat([0, 1, 2], [100, 50, 10])


def test_each_image_is_judged_once_and_never_fitted_in_its_draw() -> None:
    draws = draws_of(LABELS, None, 10, seed=0)
    assert len(draws) == 10
    assert sorted(np.concatenate([draw.judged for draw in draws])) == list(range(len(LABELS)))
    for draw in draws:
        assert sorted([*draw.judged, *draw.order]) == list(range(len(LABELS)))


def test_subsets_are_nested_and_stratified_and_lack_no_class() -> None:
    for draw in draws_of(LABELS, None, 10, seed=3):
        subsets = [draw.subset(size) for size in (3, 6, 30, 72, 144)]
        assert [len(one) for one in subsets] == [3, 6, 30, 72, 144]
        assert all(set(smaller) < set(larger) for smaller, larger in pairwise(subsets))
        assert all(set(LABELS[one]) == {0, 1, 2} for one in subsets)
        shares = np.bincount(LABELS[subsets[3]]) / 72
        assert shares == pytest.approx(np.bincount(LABELS) / len(LABELS), abs=0.03)


def test_draws_differ_and_follow_the_seed() -> None:
    one, again, other = (draws_of(LABELS, None, 10, seed)[0] for seed in (0, 0, 1))
    assert np.array_equal(one.order, again.order)
    assert not np.array_equal(one.order, other.order)
    first, second = draws_of(LABELS, None, 10, 0)[:2]
    shared = set(first.subset(30)) & set(second.subset(30))
    assert len(shared) < 20


def test_groups_are_never_divided() -> None:
    groups = np.arange(len(LABELS)) // 4
    for draw in draws_of(LABELS, groups, 5, seed=0):
        for size in (5, 21, 50):
            fitted = draw.subset(size)
            assert abs(len(fitted) - size) <= 3
            left = np.setdiff1d(np.arange(len(LABELS)), fitted)
            assert not set(groups[fitted]) & set(groups[left])


def test_a_class_of_one_image_is_always_fitted() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])
    draws = draws_of(labels, None, 10, seed=0)
    assert 40 not in np.concatenate([draw.judged for draw in draws])
    assert all(40 in draw.subset(3) for draw in draws)


@pytest.mark.parametrize(
    ("labels", "groups"),
    [([0, 1], None), ([0, 0, 1, 1], None), ([0] * 9 + [1], None), ([0] * 5 + [1] * 5, [0] * 5 + [1] * 5)],
    ids=["two images", "four images", "one class of one image", "each class one group"],
)
def test_too_little_is_said_in_one_line(labels: list[int], groups: list[int] | None) -> None:
    with pytest.raises(DataError, match="a learning curve needs"):
        draws_of(np.array(labels), None if groups is None else np.array(groups), 10, seed=0)


@pytest.mark.parametrize(("most", "classes"), [(225, 3), (3_450, 5), (2_400, 1_000), (60, 2), (9, 3)])
def test_sizes_ascend_to_all_and_hold_half(most: int, classes: int) -> None:
    sizes = sizes_up_to(most, classes)
    assert len(sizes) <= 8
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    assert round(most / 2) in sizes
    assert sizes[0] <= max(2 * classes, most / 100)


def test_sizes_that_groups_make_equal_count_once() -> None:
    labels, groups = np.repeat([0, 1], 30), np.repeat(np.arange(6), 10)
    draws = draws_of(labels, groups, 5, seed=0)
    kept = distinct(draws, [4, 6, 8, 10, 20, 40])
    fitted = [np.mean([len(draw.subset(size)) for draw in draws]) for size in kept]
    assert kept[-1] == 40
    assert all(larger >= 1.1 * smaller for smaller, larger in pairwise(fitted))
