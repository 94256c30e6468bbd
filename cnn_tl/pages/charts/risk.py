"""What would not answering gain? The error by the share of images that is answered, the most confident first."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from cnn_tl.abstention.risk import risk_coverage
from cnn_tl.core.formatting import percent
from cnn_tl.pages.charts.axes import Scale, frame, line, polyline, round_ticks, text

_WIDTH, _HEIGHT = 380, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 358, 30, 212
_MOST_POINTS = 400
_NAMED = (1.0, 0.9, 0.8, 0.5)


def risk_chart(confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> Markup:
    """Return the chart, of at least one image."""
    curve = risk_coverage(confidence_N, right_N)
    x = Scale(0, 1, _LEFT, _RIGHT)
    y = Scale(0, max(float(curve.risk.max()), 0.01), _BOTTOM, _TOP)
    places = np.unique(np.linspace(0, len(curve.risk) - 1, _MOST_POINTS).astype(int))
    shapes = [text(_LEFT, 14, "wrong among the answered", "start", "axis")]
    for value in round_ticks(0, y.high, 4):
        label = f"{100 * value:.3g}%"
        shapes += [line(_LEFT, y(value), _RIGHT, y(value), "grid"), text(_LEFT - 6, y(value) + 4, label, "end")]
    shapes += [text(x(share), _BOTTOM + 16, percent(share, 0)) for share in (0, 0.25, 0.5, 0.75, 1)]
    shapes.append(text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, "images answered, the most confident first", kind="axis"))
    points: list[tuple[float, float | None]] = [(x(curve.coverage[k]), y(curve.risk[k])) for k in places]
    shapes.append(polyline(points, "curve first"))
    named = "; ".join(f"{percent(share, 0)}: {percent(curve.risk_at(share))}" for share in _NAMED)
    return frame(_WIDTH, _HEIGHT, f"Wrong answers by the share of images answered: {named}", *shapes)
