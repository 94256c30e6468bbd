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
"""Columns of a screen on which the parameters are shown, too."""

FRONT = "*"


def show_recommendation(found: Recommendation) -> None:
    """Print the table and what follows from it; fits 80 columns."""
    wide = console.width() >= WIDE
    columns = ["backbone", "px>", "accuracy>", "to the best>", "img/s>", "MB>", "train>"]
    columns[6:6] = ["parameters>"] if wide else []
    rows = [_cells(row, row is found.chosen, wide=wide) for row in found.rows]
    console.show(console.table(columns, rows, dense=True))
    for line in _lines(found):
        console.say(line)
    console.say()
    console.say(f"recommended: {found.reason}")


def _cells(row: BackboneRow, chosen: bool, *, wide: bool) -> list[str]:
    mark = f" {FRONT}" if row.on_front else ""
    cells = [
        f"{printable(row.model)}{mark}",
        str(row.image_size),
        percent(row.accuracy),
        _difference(row),
        rate(row.images_per_second).removesuffix(" img/s"),
        f"{row.bytes / 1e6:.3g}",
        duration(row.train_seconds),
    ]
    cells[6:6] = [f"{row.parameters / 1e6:.1f} M"] if wide else []
    return cells


def _difference(row: BackboneRow) -> str:
    if row.difference_interval is None:
        return "the best"
    low, high = (points(end, unit="") for end in row.difference_interval)
    return f"{points(row.difference, unit='')} ({low}, {high})"


def _lines(found: Recommendation) -> list[str]:
    """Return what the table means, what it leaves open, and what was left out."""
    lines = [
        f"accuracy: {found.repeats} x {found.folds}-fold cross-validation of head {found.head} on "
        f"{counted(found.images, 'image')} of {found.total:,} for training; to the best: in points, with 95% interval",
        f"train: a run on all images here, of whose features {_cached(found)} cached; "
        f"{FRONT} no other is at least as accurate, fast and small",
    ]
    if early := [row for row in found.rows if row.images < found.images]:
        names = ", ".join(f"{printable(row.model)} at {row.image_size} px ({row.images:,} images)" for row in early)
        lines.append(f"clearly worse, so dropped early: {names}")
    if alike := [row for row in found.rows[1:] if row.as_good]:
        names = ", ".join(f"{printable(row.model)} at {row.image_size} px" for row in alike)
        lines.append(f"cannot be told apart from the best: {names}")
    lines += [f"left out: {one.candidate}: {one.reason}" for one in found.skipped]
    if found.out_of_time and len(found.rows) > 1:
        lines.append(f"{duration(found.budget)} did not suffice for more images; a longer --budget tells more apart")
    return lines


def _cached(found: Recommendation) -> str:
    shares = [row.cached for row in found.rows]
    low, high = percent(min(shares), 0), percent(max(shares), 0)
    return f"{low} are" if low == high else f"{low} to {high} are"


def train_words(data: str, candidate: Candidate, given: Sequence[str] = ()) -> list[str]:
    """Return the words, quoted for the shell, of the command that trains the recommended backbone.

    Args:
        given: words of the user's own, such as `--set` and its value, which go at the end.
    """
    words = ["cnn-tl", "train", data, "--model", candidate.model]
    words += ["--weights", candidate.weights] if candidate.weights else []
    words += ["--image-size", str(candidate.image_size)] if candidate.image_size else []
    return [printable(shlex.quote(word)) for word in (*words, *given)]
