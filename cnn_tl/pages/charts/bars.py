"""Bars as high as a line of text: a share from 0 to 1, alone or with its interval. They repeat a number beside them."""

from __future__ import annotations

from markupsafe import Markup

_OPEN = Markup('<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">')
_TRACK = Markup('<path class="track" d="M0 0h100v8H0z"/>')


def bar(share: float, kind: str = "") -> Markup:
    """Return a bar of a share; `kind` is a class of page.css, such as "right" or "wrong"."""
    return _OPEN + _TRACK + Markup('<path class="fill {}" d="M0 0h{}v8H0z"/></svg>').format(kind, _x(share))


def interval_bar(share: float, interval: tuple[float, float]) -> Markup:
    """Return a bar of a share with its interval as a band across its end, and a tick at the share."""
    low, high = (_x(one) for one in interval)
    at = _x(min(max(share, 0.006), 0.994))  # the tick stays inside
    shape = '<path class="fill" d="M0 0h{}v8H0z"/><path class="band" d="M{} 2.2H{}v3.6H{}z"/>'
    shape += '<path class="tick" d="M{} 0v8"/>'
    return _OPEN + _TRACK + Markup(shape).format(_x(share), low, high, low, at) + Markup("</svg>")


def _x(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.4g}"
