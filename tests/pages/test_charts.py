"""Charts put numbers where they belong."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cnn_tl.metrics.figures import CalibrationBin
from cnn_tl.pages.charts.axes import Scale, polyline, round_ticks
from cnn_tl.pages.charts.bars import bar, interval_bar
from cnn_tl.pages.charts.calibration import calibration_chart
from cnn_tl.pages.charts.curves import curve_charts
from cnn_tl.pages.charts.overview import LEVELS, level, overview
from cnn_tl.pages.charts.risk import risk_chart


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 30, [0, 10, 20, 30]), (0.81, 0.93, [0.85, 0.9])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert round_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.0, float("inf")), (3.0, 2.0)])
def test_ticks_of_no_range(low: float, high: float) -> None:
    assert round_ticks(low, high) == [low]


def test_a_scale_is_linear_and_a_point_stays_a_point() -> None:
    assert [Scale(0, 2, 10, 110)(value) for value in (0, 1, 2)] == [10, 60, 110]
    assert Scale(1, 1, 10, 110)(1) == 10


def test_a_missing_value_leaves_a_gap() -> None:
    assert 'd="M0 1L1 2M3 4"' in polyline([(0, 1.0), (1, 2.0), (2, None), (3, 4.0)], "curve")


def test_bars_are_as_long_as_their_share() -> None:
    assert "M0 0h25v8" in bar(0.25, "wrong")
    assert "M0 0h100v8" in bar(1.5)
    assert "M10 2.2H60v" in interval_bar(0.25, (0.1, 0.6))


def test_calibration_draws_a_point_and_a_count_for_each_bin() -> None:
    bins = (CalibrationBin(0.4, 0.5, 10, 0.45, 2), CalibrationBin(0.9, 1.0, 40, 0.97, 39))
    chart = calibration_chart(bins)
    assert chart.count('class="point"') == chart.count('class="count"') == chart.count('class="whisker"') == 2
    assert "40% to 50%: 2 of 10; 90% to 100%: 39 of 40" in chart
    assert ">40</text>" in chart


def row(epoch: int, loss: float, accuracy: float) -> dict[str, float]:
    return {"epoch": epoch, "loss": loss, "val_loss": 2 * loss, "val_accuracy": accuracy}


def test_curves_mark_the_kept_epoch_and_skip_what_is_not_finite() -> None:
    rows = [row(0, 1.0, 0.2), row(1, float("nan"), 0.5), row(2, 0.4, 0.7), {"val_accuracy": 0.9}]
    charts = curve_charts(rows, kept=2)
    losses, accuracy = charts["loss"], charts["accuracy"]
    assert "from 2 to 0.8, epochs 0 to 2; epoch 2 is kept" in losses
    assert "from 20.0% to 70.0%" in accuracy
    assert "kept: epoch 2, 70.0%" in accuracy
    assert "nan" not in losses + accuracy


def test_accuracy_alone_is_no_loss() -> None:
    assert list(curve_charts([{"epoch": n, "val_accuracy": 0.1 * n} for n in range(3)])) == ["accuracy"]


def test_no_curves_without_a_loop_and_not_more_points_than_places() -> None:
    assert curve_charts([{"val_accuracy": 0.9}]) == {}
    assert curve_charts([row(1, 1.0, 0.5)]) == {}
    many = curve_charts([row(n, 1.0, 0.5) for n in range(10_000)], kept=5_001)
    assert max(chart.count("L") for chart in many.values()) < 1_000
    assert "kept: epoch 5001" in many["accuracy"]


def test_the_overview_has_a_square_for_each_cell_that_is_not_empty() -> None:
    confusion = np.zeros((50, 50), np.int64)
    confusion[3, 3], confusion[3, 7], confusion[9, 1] = 5, 1, 2
    drawn = overview(confusion)
    assert re.findall(r'class="cell (\w+) q\d" d="([^"]*)"', drawn) == [
        ("on", "M3 3h1v1h-1z"), ("off", "M7 3h1v1h-1z"), ("off", "M1 9h1v1h-1z")
    ]  # fmt: skip
    assert [level(share) for share in (0, 1e-6, 0.25, 1)] == [0, 1, 5, LEVELS]


def test_the_risk_chart_names_errors_by_share_and_draws_few_points_of_many() -> None:
    confidence_N = np.linspace(0, 1, 5000)
    chart = risk_chart(confidence_N, confidence_N > 0.1)
    assert "100%: 10.0%; 90%: 0.0%" in chart
    curve = re.findall(r'class="curve first" d="([^"]*)"', chart)[0]
    assert curve.count("L") == 399
    assert curve.startswith("M48.1 212L48.8 212L")  # no mistake among the most confident
    assert "curve first" in risk_chart(np.array([0.5]), np.array([True]))
