"""Which classes gain: a planted gain is found, noise is not taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.advising.learning_curve.classes import class_gains

NAMES = ["a", "b", "c", "d"]
LABELS = np.repeat(np.arange(4), 100)


def answers(shares: list[float], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(400) < np.array(shares)[LABELS]


def test_a_class_that_gained_is_named_first_and_the_others_are_not() -> None:
    hard = np.random.default_rng(0).random(400)
    half = hard < np.array([0.5, 0.9, 0.9, 0.9])[LABELS]
    whole = hard < np.array([0.8, 0.9, 0.9, 0.9])[LABELS]
    found = class_gains(NAMES, LABELS, half, whole, relative=0.2)
    assert [one.name for one in found if one.is_certain] == ["a"]
    assert found[0].name == "a"
    assert found[0].at_half < found[0].at_all < found[0].foretold
    assert found[0].foretold_interval[0] < found[0].foretold < found[0].foretold_interval[1]


def test_chance_is_not_called_a_gain() -> None:
    certain = 0
    for seed in range(60):
        found = class_gains(NAMES, LABELS, answers([0.8] * 4, seed), answers([0.8] * 4, seed + 1_000), 0.1)
        certain += any(one.is_certain for one in found)
    assert certain <= 5  # of 60, at a level of 2.5% for all classes together


@pytest.mark.parametrize("relative", [0.0, 0.15, 1.0])
def test_shares_stay_shares_and_perfect_classes_gain_nothing(relative: float) -> None:
    whole = np.ones(400, bool)
    whole[:100] = False
    found = {one.name: one for one in class_gains([*NAMES, "none"], LABELS, whole, whole, relative)}
    assert set(found) == set(NAMES)  # a class that was not judged has no gain
    assert found["b"].foretold == found["b"].at_all == 1
    for one in found.values():
        assert 0 <= one.foretold_interval[0] <= one.foretold <= one.foretold_interval[1] <= 1
