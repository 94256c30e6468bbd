"""A learning curve on the terminal: measured and foretold accuracies, a bar each, and what they say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import percent

if TYPE_CHECKING:
    from cnn_tl.advising.learning_curve.curve import Curve
    from cnn_tl.advising.learning_curve.report import LearningCurve

_MOST_CLASSES = 8
_WIDE = 120
"""Columns of a screen that has room for longer bars."""

_BAR, _LONG_BAR = 16, 40


def show_learning_curve(found: LearningCurve) -> None:
    """Print the curve, its check, the classes that gain, and the verdict."""
    from cnn_tl.advising.learning_curve import wording

    curve = found.curve
    console.say(f"{wording.what_was_measured(curve)} ({found.backbone}, frozen)")
    console.show(console.table(["images>", "a class>", "accuracy>", "95% interval", ""], _rows(curve), dense=True))
    if curve.outlooks:
        console.say(f"gain: {wording.gains_line(curve)}")
    console.say(f"check: {wording.check_line(curve)}")
    if len(curve.classes) > 2 and curve.outlooks:
        rows = _class_rows(curve)
        console.show(console.table(["class", "half>", "all>", "twice>", "95% interval"], rows, dense=True))
    console.say(f"classes: {wording.classes_line(curve)}")
    for outlook in curve.outlooks[:1]:
        console.say(f"cost: twice as many are {wording.cost_line(curve, outlook)}")
    console.say(found.verdict)


def _rows(curve: Curve) -> list[list[str]]:
    each = len(curve.classes)
    shown = [(f"{one.images:,}", one.images, one.accuracy, one.interval, "measured") for one in curve.points]
    if curve.now.images != curve.points[-1].images:
        now = curve.now
        shown.append((f"{now.images:,}", now.images, now.accuracy, now.interval, "foretold"))
    for one in curve.outlooks:
        shown.append((f"{one.times} x = {one.images:,}", one.images, one.accuracy, one.interval, "foretold"))
    least = min(interval[0] for _, _, _, interval, _ in shown)
    room = _LONG_BAR if console.width() >= _WIDE else _BAR
    return [
        [
            text, f"{images / each:.3g}" if images / each < 100 else f"{images / each:,.0f}", percent(accuracy),
            f"{percent(interval[0])} to {percent(interval[1])}", _bar(accuracy, interval, least, room, kind),
        ]
        for text, images, accuracy, interval, kind in shown
    ]  # fmt: skip


def _bar(accuracy: float, interval: tuple[float, float], low: float, room: int, kind: str) -> str:
    """Return the interval as a line with a mark at the accuracy, on a track from the lowest of all to 100%."""

    def place(share: float) -> int:
        return round((room - 1) * (share - low) / max(1 - low, 1e-9))

    line = ["·"] * room
    for column in range(max(place(interval[0]), 0), min(place(interval[1]), room - 1) + 1):
        line[column] = "─" if kind == "measured" else "╌"
    line[min(max(place(accuracy), 0), room - 1)] = "●" if kind == "measured" else "○"
    return "".join(line)


def _class_rows(curve: Curve) -> list[list[str]]:
    return [
        [
            printable(one.name), percent(one.at_half), percent(one.at_all), percent(one.foretold),
            f"{percent(one.foretold_interval[0])} to {percent(one.foretold_interval[1])}",
        ]
        for one in curve.gains[:_MOST_CLASSES]
    ]  # fmt: skip
