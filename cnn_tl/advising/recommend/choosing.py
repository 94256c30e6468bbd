"""The rows of a recommendation, the choice among them, and its reason in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_tl.advising.recommend.comparing import Difference, difference, on_front, told_apart
from cnn_tl.advising.recommend.entrant import Entrant
from cnn_tl.advising.recommend.race import Lane
from cnn_tl.advising.recommend.result import BackboneRow
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import percent, points
from cnn_tl.core.statistics import SIGNIFICANT, wilson_interval

PRICE = 0.005
"""The accuracy that speed may cost. On 500 images few backbones can be told apart: taking the fastest of all these
has a mean regret of 1.3 points over five data sets, with this limit 0.8; so has the most accurate one."""

GroupsOf = Callable[[int], "NDArray[np.int64] | None"]


def rows_of(lanes: Sequence[Lane[Entrant]], groups_of: GroupsOf) -> list[BackboneRow]:
    """Return a row for each backbone that was judged, the most accurate first.

    One that was dropped early is compared with the best one on the sample on which it was dropped. Of equally accurate
    ones the fastest counts as the best.
    """
    largest = max(lane.size for lane in lanes)
    finalists = [lane for lane in lanes if lane.size == largest]
    best = max(finalists, key=lambda lane: (float(lane.scores[largest].mean()), lane.runner.images_per_second))
    others = [lane for lane in lanes if lane is not best]
    apart = [difference(best.scores[one.size], one.scores[one.size], groups_of(one.size)) for one in others]
    worse = [differs and found.gain < 0 for differs, found in zip(told_apart(apart, SIGNIFICANT), apart, strict=True)]
    rows = [_row(best, None, as_good=True)]
    rows += [
        _row(lane, found, as_good=lane in finalists and not less)
        for lane, found, less in zip(others, apart, worse, strict=True)
    ]
    front = on_front([(row.difference, row.images_per_second, -row.bytes) for row in rows])
    marked = [replace(row, on_front=is_on) for row, is_on in zip(rows, front, strict=True)]
    return [marked[0], *sorted(marked[1:], key=lambda row: (-row.difference, -row.images_per_second))]


def _row(lane: Lane[Entrant], found: Difference | None, *, as_good: bool) -> BackboneRow:
    entrant, scores = lane.runner, lane.scores[lane.size]
    seconds, cached = entrant.training_seconds()
    return BackboneRow(
        candidate=entrant.candidate,
        image_size=entrant.image_size,
        images=len(scores),
        accuracy=float(scores.mean()),
        interval=wilson_interval(round(float(scores.sum())), len(scores)),
        difference=found.gain if found else 0.0,
        difference_interval=found.interval if found else None,
        as_good=as_good,
        images_per_second=round(entrant.images_per_second, 1),
        bytes=entrant.nbytes(),
        parameters=entrant.parameters,
        train_seconds=round(seconds, 1),
        cached=round(cached, 4),
        on_front=False,
    )


def choose(rows: Sequence[BackboneRow]) -> BackboneRow:
    """Return the fastest of those that are at most `PRICE` less accurate than the best one, and not for certain."""
    return max((row for row in rows if row.as_good and row.difference >= -PRICE), key=_speed)


def _speed(row: BackboneRow) -> float:
    return row.images_per_second


def reason_for(
    chosen: BackboneRow, rows: Sequence[BackboneRow], versus: Callable[[BackboneRow, BackboneRow], Difference]
) -> str:
    """Return why this one, in one sentence.

    Args:
        versus: (first, second) -> how much more accurate the second is, on the images that both were judged on.
    """
    others = [row for row in rows if row is not chosen]
    name = name_of(chosen, rows)
    if not others:
        return f"{name} is the only one that was compared"
    fastest, best = max(others, key=_speed), rows[0]
    if chosen is not best:
        found = versus(best, chosen)
        worse = f"{_size(found)} worse ({_interval(found)}, so perhaps by chance)" if found.gain else "as accurate"
        return f"{name} is {_times(chosen, best)} as fast as {name_of(best, rows)}, the most accurate one, and {worse}"
    if _speed(chosen) >= _speed(fastest):
        return f"{name} is the most accurate and the fastest"
    found = versus(fastest, chosen)
    chance = "" if found.p < SIGNIFICANT else ", so perhaps by chance"
    return (
        f"{name} is {_size(found)} better than {name_of(fastest, rows)} ({_interval(found)}{chance}), "
        f"at {_share(chosen, fastest)} the speed"
    )


def name_of(row: BackboneRow, rows: Sequence[BackboneRow]) -> str:
    """Return a short name of a row that no other row has."""
    name, same = printable(row.model), [other for other in rows if other.model == row.model]
    if len({other.image_size for other in same}) > 1:
        name += f" at {row.image_size} px"
    if len({other.candidate.weights for other in same}) > 1:
        name += f" ({printable(Path(row.candidate.weights).name) if row.candidate.weights else 'published weights'})"
    return name


def _size(found: Difference) -> str:
    return points(abs(found.gain)).removeprefix("+")


def _interval(found: Difference) -> str:
    low, high = (points(end, unit="") for end in found.interval)
    return f"{low} to {high}"


def _share(one: BackboneRow, other: BackboneRow) -> str:
    share = _speed(one) / _speed(other)
    return "half" if 0.45 <= share <= 0.55 else percent(share, 0) + " of"


def _times(one: BackboneRow, other: BackboneRow) -> str:
    return f"{_speed(one) / _speed(other):.2g} times"
