"""What goes into exclude.txt."""

from __future__ import annotations

import numpy as np

from cnn_tl.doctor.twins import Twins
from cnn_tl.doctor.written import extra_copies


def twins(*pairs: tuple[int, int, str]) -> Twins:
    kinds = tuple(kind for _, _, kind in pairs)
    both = np.array([pair[:2] for pair in pairs])
    one = np.ones(len(pairs))
    return Twins(both, kinds, one, one > 0, np.zeros(9, np.int64), 0.5, None, {}, calibrated=False)


def test_copies_are_equal_to_an_image_of_their_own_class_and_split() -> None:
    found = twins((0, 1, "equal bytes"), (0, 3, "equal pixels"), (3, 4, "equal bytes"), (5, 6, "equal bytes"))
    splits = ["train", "val", "train", "train", "train", "train", "train"]
    assert extra_copies(found, splits, [0] * 7) == [3, 4, 6]


def test_a_copy_in_another_class_is_none_though_it_resembles_an_image_of_its_own() -> None:
    found = twins((1, 2, "equal bytes"), (0, 1, "near"))
    assert extra_copies(found, ["train"] * 3, [0, 1, 0]) == []
