"""Accuracy by the number of images fitted, on a logarithmic axis: measured points, and foretold ones beyond them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cnn_tl.core.formatting import percent
from cnn_tl.pages.charts.axes import Scale, frame, line, polyline, round_ticks, text

_WIDTH, _HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 356, 26, 206
_DIGIT, _LEAST_GAP = 6.5, 8
"""Units of a digit, and between two labels of the axis of images."""


@dataclass(frozen=True)
class Mark:
    """Accuracy after fits to so many images, with the ends of its 95% interval."""

    images: int
    accuracy: float
    low: float
    high: float


def learning_curve_chart(measured: Sequence[Mark], foretold: Sequence[Mark]) -> Markup:
    """Return the chart; there is a measured point at least."""
    marks = [*measured, *foretold]
    low, high = min(one.low for one in marks), max(one.high for one in marks)
    ends = [math.log(max(one.images, 1)) for one in (marks[0], marks[-1])]
    x, y = Scale(ends[0], ends[1], _LEFT + 8, _RIGHT), Scale(low, max(high, low + 0.02), _BOTTOM, _TOP)

    def at(one: Mark) -> tuple[float, float]:
        return x(math.log(one.images)), y(one.accuracy)

    shapes = [text(_LEFT, 13, "accuracy", "start", "axis")]
    for value in round_ticks(y.low, y.high):
        label = f"{100 * value:.3g}%"
        shapes += [line(_LEFT, y(value), _RIGHT, y(value), "grid"), text(_LEFT - 6, y(value) + 4, label, "end")]
    shapes += [*_images(marks, x), text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, "images fitted", kind="axis")]
    shapes += [line(at(one)[0], y(one.low), at(one)[0], y(one.high), "whisker") for one in marks]
    shapes += [
        polyline([at(one) for one in measured], "curve first"),
        polyline([at(one) for one in (measured[-1], *foretold)], "curve second"),
    ]
    for one in marks:
        hint = f"{one.images:,} images: {percent(one.accuracy)} ({percent(one.low)} to {percent(one.high)})"
        point = '<circle class="point" cx="{:g}" cy="{:g}" r="3.5"><title>{}</title></circle>'
        shapes.append(Markup(point).format(*at(one), hint))
    first, last = measured[0], measured[-1]
    title = f"Accuracy from {percent(first.accuracy)} with {first.images:,} images to {percent(last.accuracy)} with "
    beyond = f", foretold {percent(foretold[-1].accuracy)} with {foretold[-1].images:,}" if foretold else ""
    return frame(_WIDTH, _HEIGHT, f"{title}{last.images:,}{beyond}", *shapes)


def _images(marks: Sequence[Mark], x: Scale) -> list[Markup]:
    """Return the labels of the axis, from the right, without those that would touch another."""
    shapes, before = [], math.inf
    for one in reversed(marks):
        place, label = x(math.log(one.images)), f"{one.images:,}"
        half = _DIGIT * len(label) / 2
        if place + half + _LEAST_GAP <= before:
            shapes.append(text(place, _BOTTOM + 16, label))
            before = place - half
    return shapes
