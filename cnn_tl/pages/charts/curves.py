"""Learning curves of a loop: loss in training and validation, and the accuracy, by epoch, with the kept epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from cnn_tl.core.formatting import percent
from cnn_tl.pages.charts.axes import Scale, frame, line, polyline, round_ticks, text

Rows = Sequence[Mapping[str, Any]]

_WIDTH, _HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 366, 30, 212
_MOST_POINTS = 400
"""Longer runs are thinned: a screen has no more places."""

_LEAST_HIGH = 0.05
"""The accuracy axis spans at least five percentage points."""


def curve_charts(rows: Rows, kept: int | None = None) -> dict[str, Markup]:
    """Return the charts of "loss" and of "accuracy" where they are known; none if fewer than two rows have an `epoch`.

    Args:
        rows: with `epoch`, and `loss`, `val_loss` and `val_accuracy` where known.
        kept: the epoch whose weights are kept; None: not marked.
    """
    rows = _thinned([row for row in rows if isinstance(row.get("epoch"), int)], kept)
    if len(rows) < 2:
        return {}
    losses = _chart(rows, kept, (("loss", "training", "second"), ("val_loss", "validation", "first")), share=False)
    accuracy = _chart(rows, kept, (("val_accuracy", "validation", "first"),), share=True)
    return {name: chart for name, chart in (("loss", losses), ("accuracy", accuracy)) if chart}


def _thinned(rows: Rows, kept: int | None) -> Rows:
    every = math.ceil(len(rows) / _MOST_POINTS)
    return [row for k, row in enumerate(rows) if k % every == 0 or row["epoch"] == kept or k == len(rows) - 1]


def _value(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _chart(rows: Rows, kept: int | None, lines: Sequence[tuple[str, str, str]], *, share: bool) -> Markup | None:
    values = [value for key, _, _ in lines for row in rows if (value := _value(row, key)) is not None]
    if not values:
        return None
    low, high = _limits(values, share=share)
    x = Scale(rows[0]["epoch"], rows[-1]["epoch"], _LEFT, _RIGHT)
    y = Scale(low, high, _BOTTOM, _TOP)
    what = "Accuracy" if share else "Loss"
    shapes = [text(_LEFT, 14, "accuracy" if share else "loss, nats", "start", "axis"), *_grid(x, y, share=share)]
    for number, (key, name, kind) in enumerate(lines):
        points = [(x(row["epoch"]), None if (v := _value(row, key)) is None else y(v)) for row in rows]
        shapes.append(polyline(points, f"curve {kind}"))
        if len(lines) > 1:
            place = _RIGHT - 150 + 82 * number
            shapes += [line(place, 10, place + 14, 10, f"curve {kind}"), text(place + 18, 14, name, "start")]
    key = lines[-1][0]
    best = next((row for row in rows if row["epoch"] == kept), None)
    if best is not None and (value := _value(best, key)) is not None:
        mark = '<circle class="kept" cx="{:g}" cy="{:g}" r="5.5"><title>{}</title></circle>'
        number_text = percent(value) if share else f"{value:.3g}"
        shapes.append(Markup(mark).format(x(kept or 0), y(value), f"kept: epoch {kept}, {number_text}"))
    first, last = (_value(row, key) for row in (rows[0], rows[-1]))
    ends = f"{what} in validation from {_number(first, share=share)} to {_number(last, share=share)}"
    about_kept = f"; epoch {kept} is kept" if best is not None else ""
    return frame(_WIDTH, _HEIGHT, f"{ends}, epochs {rows[0]['epoch']} to {rows[-1]['epoch']}{about_kept}", *shapes)


def _number(value: float | None, *, share: bool) -> str:
    if value is None:
        return "unknown"
    return percent(value) if share else f"{value:.3g}"


def _limits(values: Sequence[float], *, share: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if share:
        middle = (low + high) / 2
        low, high = min(low, middle - _LEAST_HIGH / 2), max(high, middle + _LEAST_HIGH / 2)
        return max(low - (high - low) * 0.05, 0.0), min(high + (high - low) * 0.05, 1.0)
    return min(low, 0.0), high if high > 0 else 1.0


def _grid(x: Scale, y: Scale, *, share: bool) -> list[Markup]:
    shapes = []
    for value in round_ticks(y.low, y.high):
        label = f"{100 * value:.3g}%" if share else f"{value:.4g}"
        shapes += [line(_LEFT, y(value), _RIGHT, y(value), "grid"), text(_LEFT - 6, y(value) + 4, label, "end")]
    for value in round_ticks(x.low, x.high, 6):
        if value == int(value):
            shapes.append(text(x(value), _BOTTOM + 16, f"{value:.0f}"))
    shapes.append(text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, "epoch", kind="axis"))
    return shapes
