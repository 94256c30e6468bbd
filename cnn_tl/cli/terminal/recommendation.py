"""A recommendation: the table of backbones, what can be told apart, the choice with its reason, the command to run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, duration, percent, points, rate

if TYPE_CHECKING:
    from cnn_tl.advising.recommend.candidates import Candidate
    from cnn_tl.advising.recommend.result import BackboneRow, Recommendation

WIDE = 100
"""Columns of a screen on which parameters and the time to train are shown, too."""

FRONT = "*"


def show_recommendation(found: Recommendation) -> None:
    """Print the table and what follows from it; fits 80 columns."""
    wide = console.width() >= WIDE
    columns = ["backbone", "px>", "accuracy>", "to the best>", "img/s>", "MB>"]
    columns += ["parameters>", "train>"] if wide else []
    console.show(console.table(columns, [_cells(row, wide=wide) for row in found.rows], dense=True))
    for line in _lines(found):
        console.say(line)
    console.say()
    console.say(f"recommended: {found.reason}")


def _cells(row: BackboneRow, *, wide: bool) -> list[str]:
    mark = f" {FRONT}" if row.on_front else ""
    cells = [
        f"{printable(row.model)}{mark}",
        str(row.image_size),
        percent(row.accuracy),
        _difference(row),
        rate(row.images_per_second).removesuffix(" img/s"),
        f"{row.bytes / 1e6:.3g}",
    ]
    return cells + ([f"{row.parameters / 1e6:.1f} M", duration(row.train_seconds)] if wide else [])


def _difference(row: BackboneRow) -> str:
    if row.difference_interval is None:
        return "the best"
    low, high = (points(end, unit="") for end in row.difference_interval)
    return f"{points(row.difference, unit='')} ({low}, {high})"


def _lines(found: Recommendation) -> list[str]:
    """Return what the table means, what it leaves open, and what was left out."""
    from cnn_tl.advising.recommend.choosing import name_of

    names = {row: name_of(row, found.rows) for row in found.rows}
    lines = [
        f"accuracy: {found.repeats} x {found.folds}-fold cross-validation, head {found.head}, "
        f"{found.images:,} of {counted(found.total, 'training image')}",
        "to the best: difference in points, with its 95% interval",
        f"{FRONT} no other is at least as accurate, fast and small",
        f"train on all images here: {_range([duration(row.train_seconds) for row in _by_time(found)])}; "
        f"{_range([percent(row.cached, 0) for row in sorted(found.rows, key=_cached)])} of the features are cached",
    ]
    if early := [row for row in found.rows if row.images < found.images]:
        each = ", ".join(f"{names[row]} ({row.images:,} images)" for row in early)
        lines.append(f"clearly worse, so dropped early: {each}")
    if alike := [row for row in found.rows[1:] if row.as_good]:
        how = f", of {len(found.rows) - 1} tested at once" if len(found.rows) > 2 else ""  # by Holm's method
        lines.append(f"cannot be told apart from the best{how}: {', '.join(names[row] for row in alike)}")
    lines += [f"left out: {one.candidate}: {one.reason}" for one in found.skipped]
    if found.out_of_time and len(found.rows) > 1:
        lines.append(f"{duration(found.budget)} did not suffice for more images; a longer --budget tells more apart")
    return lines


def _by_time(found: Recommendation) -> list[BackboneRow]:
    return sorted(found.rows, key=lambda row: row.train_seconds)


def _cached(row: BackboneRow) -> float:
    return row.cached


def _range(texts: Sequence[str]) -> str:
    """Return the first and the last of some figures, or the one that they all are."""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def train_words(data: str, candidate: Candidate, given: Sequence[str] = ()) -> list[str]:
    """Return the words, quoted for the shell, of the command that trains the recommended backbone.

    Args:
        given: words of the user's own, such as `--set` and its value, which go at the end.
    """
    words = ["cnn-tl", "train", data, "--model", candidate.model]
    words += ["--weights", candidate.weights] if candidate.weights else []
    words += ["--image-size", str(candidate.image_size)] if candidate.image_size else []
    return [printable(shlex.quote(word)) for word in (*words, *given)]
