"""Are the probabilities right? Accuracy by probability with intervals, and below it how many answers that rests on."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from cnn_tl.core.formatting import counted, percent
from cnn_tl.core.statistics import wilson_interval
from cnn_tl.metrics.figures import CalibrationBin
from cnn_tl.pages.charts.axes import Scale, frame, line, text

_WIDTH, _HEIGHT = 388, 330
_LEFT, _RIGHT, _TOP, _MIDDLE, _COUNTS_TOP, _BOTTOM = 44, 366, 12, 216, 238, 288


def calibration_chart(bins: Sequence[CalibrationBin]) -> Markup:
    """Return the chart: a point for each bin at its mean probability, with the 95% interval of its accuracy."""
    x, y = Scale(0, 1, _LEFT, _RIGHT), Scale(0, 1, _MIDDLE, _TOP)
    shapes = [*_grid(x, y), line(x(0), y(0), x(1), y(1), "ideal")]
    for one in bins:
        share = one.right / one.images
        low, high = wilson_interval(one.right, one.images)
        at = x(one.confidence)
        hint = f"{percent(share)} of {counted(one.images, 'answer')} at {percent(one.low, 0)} to {percent(one.high, 0)}"
        shapes += [
            Markup("<g><title>{} correct</title>").format(hint),
            line(at, y(low), at, y(high), "whisker"),
            Markup('<circle class="point" cx="{:g}" cy="{:g}" r="4"/></g>').format(at, y(share)),
        ]
    sure = "; ".join(f"{percent(one.low, 0)} to {percent(one.high, 0)}: {one.right} of {one.images}" for one in bins)
    return frame(_WIDTH, _HEIGHT, f"Correct answers by probability: {sure}", *shapes, *_counts(bins, x))


def _grid(x: Scale, y: Scale) -> list[Markup]:
    shapes = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        shapes += [
            line(x(0), y(share), x(1), y(share), "grid"),
            text(_LEFT - 6, y(share) + 4, percent(share, 0), "end"),
            text(x(share), _BOTTOM + 15, percent(share, 0)),
        ]
    shapes += [
        text((_LEFT + _RIGHT) / 2, _HEIGHT - 8, "probability of the answer", kind="axis"),
        text(_LEFT + 6, _TOP + 12, "correct", "start", "axis"),
    ]
    return shapes


def _counts(bins: Sequence[CalibrationBin], x: Scale) -> list[Markup]:
    """Return the histogram of the answers, with the largest count written at it."""
    most = max((one.images for one in bins), default=1)
    y = Scale(0, most, _BOTTOM, _COUNTS_TOP)
    shapes = [
        line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "grid"),
        text(_LEFT + 6, _COUNTS_TOP + 9, "answers", "start", "axis"),
    ]
    for one in bins:
        left, right, top = x(one.low) + 0.5, x(one.high) - 0.5, min(y(one.images), _BOTTOM - 1)
        shapes.append(
            Markup('<path class="count" d="M{:g} {:g}H{:g}V{:g}H{:g}z"><title>{}</title></path>').format(
                left, _BOTTOM, right, top, left, counted(one.images, "answer")
            )
        )
        if one.images == most:
            shapes.append(text(min((left + right) / 2, _RIGHT - 14), _COUNTS_TOP - 4, f"{most:,}"))
            most = -1
    return shapes
