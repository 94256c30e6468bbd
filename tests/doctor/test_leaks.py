"""Groups of twins that cross splits or classes, counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.core.statistics import wilson_interval
from cnn_tl.doctor.leaks import find_leaks, leaked_accuracy

SPLITS = ["train", "train", "train", "val", "val", "test", "train", "train", "train", "val"]
LABELS = [0, 0, 1, 0, 1, 1, 1, 0, 1, 0]
GROUPS = [0, 0, 1, 0, 1, -1, 2, 2, -1, -1]


def test_groups_are_told_by_splits_and_classes() -> None:
    found = find_leaks(np.array(GROUPS), SPLITS, np.array(LABELS))
    assert found.crossing == ((0, 1, 3), (2, 4))
    assert found.conflicting == ((6, 7),)
    assert found.within == (1,)
    assert found.leaked == {"val": (3, 4), "test": ()}
    assert found.in_training == (0, 1, 2)


def test_val_and_test_alone_leak_nothing_into_training() -> None:
    found = find_leaks(np.array([0, 0, -1]), ["val", "test", "train"], np.array([0, 0, 0]))
    assert found.crossing == ((0, 1),)
    assert found.leaked == {"val": (), "test": ()}
    assert found.in_training == ()
    assert found.test_in_val == (1,)


def test_without_groups_nothing_is_found() -> None:
    found = find_leaks(np.full(3, -1), ["train"] * 3, np.zeros(3, np.int64))
    assert (found.crossing, found.conflicting, found.within, found.leaked) == ((), (), (), {})


def test_accuracy_with_and_without_the_leaked_images() -> None:
    right = np.array([True, True, True, False, True, False])
    found = leaked_accuracy("val", right, np.arange(6) < 2)
    assert (found.all.images, found.all.correct) == (6, 4)
    assert (found.leaked.accuracy, found.clean.accuracy) == (1.0, 0.5)
    assert found.clean.interval == wilson_interval(2, 4)


@pytest.mark.parametrize("leaked", [True, False])
def test_without_images_there_is_no_accuracy(leaked: bool) -> None:
    found = leaked_accuracy("val", np.array([True]), np.array([leaked]))
    none = found.clean if leaked else found.leaked
    assert (none.images, none.accuracy, none.interval) == (0, None, None)
    assert found.to_dict()["all"]["accuracy"] == 1.0
