"""Axes of charts: round ticks, linear scales, and lines with gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

TEXT = 11
"""Height of the text in the units of a drawing."""


@dataclass(frozen=True)
class Scale:
    """A linear map from values [low, high] to places [start, end] of a drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value, rounded to a tenth of a unit."""
        span = self.high - self.low or 1.0
        return round(self.start + (value - self.low) / span * (self.end - self.start), 1)


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most `most` + 1 round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + k) * step, 12) for k in range(count)]


def text(x: float, y: float, content: str, anchor: str = "middle", kind: str = "") -> Markup:
    """Return a text whose baseline begins, is centred or ends at x, by `anchor`: start, middle or end."""
    return Markup('<text x="{:g}" y="{:g}" text-anchor="{}" class="{}">{}</text>').format(x, y, anchor, kind, content)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight line."""
    return Markup('<path class="{}" d="M{:g} {:g}L{:g} {:g}"/>').format(kind, x1, y1, x2, y2)


def polyline(points: Sequence[tuple[float, float | None]], kind: str) -> Markup:
    """Return a line through points; one without y leaves a gap."""
    parts, pen_is_down = [], False
    for x, y in points:
        if y is not None:
            parts.append(f"{'L' if pen_is_down else 'M'}{x:g} {y:g}")
        pen_is_down = y is not None
    return Markup('<path class="{}" d="{}"/>').format(kind, "".join(parts))


def frame(width: int, height: int, title: str, *shapes: Markup) -> Markup:
    """Return a drawing that scales with its place; the title is its text alternative."""
    head = '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>'
    return Markup(head).format(width, height, title, title) + Markup("").join(shapes) + Markup("</svg>")
