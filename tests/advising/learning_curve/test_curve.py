"""From features to a curve and its sentences."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn_tl.advising.learning_curve import wording
from cnn_tl.advising.learning_curve.curve import Curve, Outlook, Point, curve_of, learn
from cnn_tl.advising.learning_curve.measure import Measured
from cnn_tl.advising.learning_curve.report import LearningCurve
from cnn_tl.core.errors import DataError
from cnn_tl.core.progress import Observer


def features(counts: list[int], apart: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    chance = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    middles = apart * chance.normal(size=(len(counts), 24))
    return (middles[labels] + chance.normal(size=(len(labels), 24))).astype(np.float32), labels


def learned(counts: list[int], apart: float, training: int | None = None) -> Curve:
    made, labels = features(counts, apart)
    names = [f"class {k}" for k in range(len(counts))]
    return learn(made, labels, None, names, training or round(0.75 * len(labels)), 0, Observer())


def test_a_curve_rises_and_foretells_a_gain() -> None:
    curve = learned([60, 60, 60], 0.35)
    accuracies = [one.accuracy for one in curve.points]
    assert accuracies[-1] > accuracies[0] + 0.1
    assert (curve.training, curve.points[-1].images, curve.judged, curve.draws) == (135, 135, 180, 10)
    assert curve.now == curve.points[-1]
    assert [one.times for one in curve.outlooks] == [2, 4]
    assert [one.images for one in curve.outlooks] == [270, 540]
    for one in curve.outlooks:
        assert one.gain == pytest.approx(one.accuracy - curve.now.accuracy)
        assert one.gain_interval[0] <= one.gain <= one.gain_interval[1]
        assert one.interval[0] <= one.accuracy <= one.interval[1]
    for point in curve.points:
        assert point.interval[0] <= point.accuracy <= point.interval[1]
    assert curve.check is not None
    assert curve.check.images == 135
    assert curve.check.came_to == curve.points[-1].accuracy
    assert sum(curve.families.values()) == pytest.approx(1)
    json.dumps(LearningCurve("photos", "lite0", curve, 0).to_dict(), allow_nan=False)


def test_rare_classes_are_measured_too() -> None:
    curve = learned([300, 3], 0.5)
    assert {one.name for one in curve.gains} == {"class 0", "class 1"}
    assert curve.points[0].images <= 6


def test_beyond_what_is_measured_today_is_foretold_too() -> None:
    curve = learned([50, 50], 0.4, training=98)
    assert curve.points[-1].images == 90
    assert curve.now.images == 98
    assert curve.outlooks[0].images == 196
    assert "up to 90 of 98 training images" in wording.what_was_measured(curve)


def test_two_images_are_refused() -> None:
    with pytest.raises(DataError, match="2 images of 2 classes, of which 0 with more than one image"):
        learned([1, 1], 1.0)


def test_six_images_give_points_and_no_outlook() -> None:
    curve = learned([3, 3], 3.0)
    assert curve.points
    assert curve.outlooks == ()
    assert curve.check is None
    assert wording.verdict(curve).startswith("There are too few images for a curve")
    assert "too few sizes" in wording.check_line(curve)


def test_chance_is_called_chance() -> None:
    assert wording.verdict(learned([60, 60], 0.0)).startswith("No curve can be told from chance")


def test_perfect_answers_say_how_often_the_model_may_be_wrong() -> None:
    text = wording.verdict(learned([40, 40], 5.0))
    assert text.startswith("All 80 images are right already")
    assert "at most 4.6% of the time" in text


BASE = learned([60, 60, 60], 0.35)


def outlook(gain: float) -> Curve:
    now = Point(135, 0.9, (0.85, 0.94))
    twice = Outlook(2, 270, 0.9 + gain, (0.87, 0.96), gain, (0.0, 0.03))
    return replace(BASE, now=now, outlooks=(twice,))


@pytest.mark.parametrize(
    ("gain", "text"),
    [
        (0.012, "Twice as many images (about 270) would bring 91.2% (87.0% to 96.0%), +1.2 points."),
        (
            0.002,
            "More images of the same kind would bring little: 90.2% (87.0% to 96.0%) with twice as many "
            "(about 270), +0.2 points.",
        ),
    ],
)
def test_the_verdict(gain: float, text: str) -> None:
    assert wording.verdict(outlook(gain)) == text


def test_a_small_gain_that_may_be_large_is_not_called_little() -> None:
    unclear = replace(outlook(0.002).outlooks[0], gain_interval=(0.0, 0.136))
    text = wording.verdict(replace(outlook(0.002), outlooks=(unclear,)))
    assert text == (
        f"{BASE.judged} images are too few to tell: twice as many (about 270) may bring nothing, or up to +13.6 points."
    )


def test_the_check_says_where_its_interval_missed() -> None:
    assert BASE.check is not None
    good = replace(BASE.check, half=50, images=100, foretold=0.931, interval=(0.91, 0.95), came_to=0.928)
    line = wording.check_line(replace(BASE, check=good))
    assert line == ("from the first half (50 of 100 images) it foretold 93.1% (91.0% to 95.0%), and it came to 92.8%")
    assert "outside" in wording.check_line(replace(BASE, check=replace(good, came_to=0.9)))


def test_the_cost() -> None:
    assert wording.cost_line(BASE, BASE.outlooks[0]) == "135 more, about 45 of each class"
    uneven = replace(BASE, baseline=0.9)
    assert wording.cost_line(uneven, BASE.outlooks[0]) == "135 more, with the classes as frequent as now"


def test_intervals_of_points_cover_images_and_draws() -> None:
    chance = np.random.default_rng(0)
    right = chance.random((300, 4)) < np.array([0.7, 0.8, 0.85, 0.9])
    made = Measured(
        np.array([10.0, 20, 40, 80]), np.arange(300), np.arange(300) % 10, np.where(right, 1, 0), np.ones(300, np.int64)
    )
    curve = curve_of(made, ["a", "b"], 300, 80, 0)
    low, high = curve.points[-1].interval
    assert 0.05 < high - low < 0.1  # Wilson's of 270 of 300 is 0.07 wide
