"""Groups of twins that cross splits or classes, and what a leak does to the accuracy of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.statistics import wilson_interval

Groups = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Leaks:
    """What groups of twins do.

    Attributes:
        crossing: groups in several splits, as sorted indices of images.
        conflicting: groups in several classes.
        within: extra images of groups that are in one split and one class: all but the first.
        leaked: split -> its images that have a twin in train; of val and test.
        in_training: images of train with a twin in val or test.
        test_in_val: images of test with a twin in val, and none in train.
    """

    crossing: tuple[tuple[int, ...], ...]
    conflicting: tuple[tuple[int, ...], ...]
    within: tuple[int, ...]
    leaked: dict[str, tuple[int, ...]]
    in_training: tuple[int, ...]
    test_in_val: tuple[int, ...] = ()


def find_leaks(groups_N: Groups, splits: Sequence[str], labels_N: NDArray[np.int64]) -> Leaks:
    """Return what groups of twins do.

    Args:
        groups_N: the group of each image; -1: it is alone.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for index in np.flatnonzero(groups_N >= 0).tolist():
        members[int(groups_N[index])].append(index)
    groups = [tuple(group) for group in members.values()]
    crossing = tuple(group for group in groups if len({splits[index] for index in group}) > 1)
    leaking = [group for group in crossing if "train" in {splits[index] for index in group}]
    places = [((splits[index], int(labels_N[index])), index) for group in groups for index in group]
    seen: set[tuple[int, str, int]] = set()
    within = []
    for (split, label), index in places:
        place = (int(groups_N[index]), split, label)
        if place in seen:
            within.append(index)
        seen.add(place)
    return Leaks(
        crossing=crossing,
        conflicting=tuple(group for group in groups if len({int(labels_N[index]) for index in group}) > 1),
        within=tuple(sorted(within)),
        leaked={
            split: tuple(sorted(index for group in leaking for index in group if splits[index] == split))
            for split in ("val", "test")
            if split in splits
        },
        in_training=tuple(sorted(index for group in leaking for index in group if splits[index] == "train")),
        test_in_val=tuple(
            sorted(index for group in crossing if group not in leaking for index in group if splits[index] == "test")
        ),
    )


@dataclass(frozen=True)
class Share:
    """How many of some images are answered correctly; accuracy and its 95% Wilson interval are None without images."""

    images: int
    correct: int
    accuracy: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class LeakedAccuracy:
    """The accuracy of a model on a split: on all images, and on those with and without a twin in training."""

    split: str
    all: Share
    leaked: Share
    clean: Share

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def leaked_accuracy(split: str, right_N: Booleans, leaked_N: Booleans) -> LeakedAccuracy:
    """Return the accuracy of a model from which of its answers are right, and which images have a twin in training."""
    return LeakedAccuracy(split, _share(right_N), _share(right_N[leaked_N]), _share(right_N[~leaked_N]))


def _share(right: Booleans) -> Share:
    correct, images = int(right.sum()), len(right)
    if not images:
        return Share(0, 0, None, None)
    return Share(images, correct, correct / images, wilson_interval(correct, images))
