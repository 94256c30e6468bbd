"""The choice: fast where that costs next to nothing, accurate elsewhere; and the sentence that says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnn_tl.advising.recommend.candidates import Candidate
from cnn_tl.advising.recommend.choosing import choose, reason_for, rows_of
from cnn_tl.advising.recommend.comparing import Difference
from cnn_tl.advising.recommend.race import Lane
from cnn_tl.advising.recommend.result import BackboneRow


def row(model: str, difference: float, speed: float, **changes: Any) -> BackboneRow:
    values: dict[str, Any] = {
        "candidate": Candidate(model), "image_size": 224, "images": 500, "accuracy": 0.9 + difference,
        "interval": (0.8, 0.95), "difference": difference, "difference_interval": (-0.02, 0.01), "as_good": True,
        "images_per_second": speed, "bytes": 10, "parameters": 10, "train_seconds": 1.0, "cached": 0.0,
        "on_front": True,
    }  # fmt: skip
    return BackboneRow(**values | changes)


def reason(chosen: BackboneRow, rows: list[BackboneRow], p: float = 0.001) -> str:
    def versus(first: BackboneRow, second: BackboneRow) -> Difference:
        gain = second.difference - first.difference
        return Difference(gain, (gain - 0.014, gain + 0.013), p)

    return reason_for(chosen, rows, versus)


def test_the_fastest_of_equals() -> None:
    rows = [row("large", 0.0, 50), row("small", 0.0, 100), row("middle", 0.0, 70)]
    assert choose(rows).model == "small"
    assert reason(rows[1], rows) == "small is 2 times as fast as large, the most accurate one, and as accurate"


def test_speed_may_cost_half_a_point() -> None:
    rows = [row("large", 0.0, 50), row("small", -0.004, 125)]
    assert choose(rows).model == "small"
    assert reason(rows[1], rows) == (
        "small is 2.5 times as fast as large, the most accurate one, and 0.4 points worse "
        "(-1.8 to +0.9, so perhaps by chance)"
    )


def test_speed_may_not_cost_more() -> None:
    rows = [row("large", 0.0, 50), row("small", -0.018, 100)]
    assert choose(rows).model == "large"
    assert reason(rows[0], rows) == "large is 1.8 points better than small (+0.4 to +3.1), at half the speed"
    assert "(+0.4 to +3.1, so perhaps by chance)" in reason(rows[0], rows, p=0.2)


def test_a_small_difference_that_is_certain_counts() -> None:
    rows = [row("large", 0.0, 50), row("small", -0.004, 100, as_good=False)]
    assert choose(rows).model == "large"


def test_nothing_to_trade() -> None:
    rows = [row("best", 0.0, 100), row("other", -0.02, 50)]
    assert reason(choose(rows), rows) == "best is the most accurate and the fastest"
    assert reason(rows[0], rows[:1]) == "best is the only one that was compared"


@pytest.mark.parametrize(("speed", "said"), [(80, "at 80% of the speed"), (52, "at half the speed")])
def test_sizes_of_one_model_have_names_of_their_own(speed: float, said: str) -> None:
    rows = [row("net", 0.0, speed, image_size=288), row("net", -0.018, 100)]
    assert reason(rows[0], rows) == f"net at 288 px is 1.8 points better than net at 224 px (+0.4 to +3.1), {said}"


def test_weights_of_one_model_have_names_of_their_own() -> None:
    rows = [row("net", 0.0, 50, candidate=Candidate("net", "here/a.pth")), row("net", -0.02, 100)]
    assert reason(rows[0], rows).startswith("net (a.pth) is 2.0 points better than net (published weights) (+0.6 to")


class Judged:
    """An entrant as far as rows need it."""

    image_size, parameters = 224, 10

    def __init__(self, model: str, speed: float) -> None:
        self.candidate, self.images_per_second = Candidate(model), speed

    def training_seconds(self) -> tuple[float, float]:
        return 1.0, 0.0

    def nbytes(self) -> int:
        return 10


def lane(model: str, speed: float, **right: int) -> Any:
    """Return a lane with so many right answers of `n100` and `n200` images."""
    scores = {int(name[1:]): np.arange(int(name[1:])) < count for name, count in right.items()}
    return Lane(Judged(model, speed), {size: one.astype(float) for size, one in scores.items()})


def test_of_equally_accurate_ones_the_fastest_is_the_best_and_comes_first() -> None:
    for lanes in (
        [lane("slow", 5, n100=90), lane("quick", 9, n100=90)],
        [lane("quick", 9, n100=90), lane("slow", 5, n100=90)],
    ):
        rows = rows_of(lanes, lambda size: None)
        assert [row.model for row in rows] == ["quick", "slow"]
        assert [row.difference_interval is None for row in rows] == [True, False]
        assert [row.on_front for row in rows] == [True, False]


def test_one_that_was_dropped_is_compared_where_it_was_dropped_and_never_chosen() -> None:
    rows = rows_of([lane("out", 9, n100=81), lane("last", 5, n100=80, n200=180)], lambda size: None)
    assert [(row.model, row.images) for row in rows] == [("last", 200), ("out", 100)]
    assert rows[1].difference == pytest.approx(0.01)
    assert not rows[1].as_good
    assert choose(rows).model == "last"
