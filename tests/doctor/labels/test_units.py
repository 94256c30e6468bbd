"""Images that are left out together."""

from __future__ import annotations

import numpy as np

from cnn_tl.doctor.labels.units import units_of


def test_a_negative_group_and_no_groups_leave_images_alone() -> None:
    assert units_of(None, 4).sizes.tolist() == [1, 1, 1, 1]
    units = units_of(np.array([7, -1, 7, -1, 0]), 5)
    assert sorted(units.sizes.tolist()) == [1, 1, 1, 2]
    assert [part.tolist() for part in units.shared()] == [[0, 2]]
    assert [part.tolist() for part in units.shared(np.array([1, 2, 0]))] == [[1, 2]]


def test_no_unit_is_in_two_folds_and_classes_are_distributed_evenly() -> None:
    labels = np.repeat([0, 1], 60)
    groups = np.where(np.arange(120) % 3 == 0, -1, np.arange(120) // 6)
    fold = units_of(groups, 120).folds(labels, 5, 0)
    assert all(len(set(fold[groups == group])) == 1 for group in range(20))
    assert set(fold) == set(range(5))
    assert min(np.bincount(fold[labels == 0], minlength=5)) >= 8


def test_a_sample_takes_whole_units() -> None:
    groups = np.arange(300) // 3
    kept = units_of(groups, 300).sample(100, 0)
    assert 100 <= len(kept) <= 103
    assert set(np.bincount(groups[kept], minlength=100)) == {0, 3}
    assert len(units_of(groups, 300).sample(300, 0)) == 300


def test_companions_are_images_of_the_class_outside_of_the_unit() -> None:
    units = units_of(np.array([0, 0, -1, 0, -1]), 5)
    assert units.companions(np.array([0, 0, 0, 1, 2]), 3).tolist() == [1, 1, 2, 0, 0]
