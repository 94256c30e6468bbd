"""A comparison of runs becomes a page, and the words and numbers that it shares with the terminal."""

from __future__ import annotations

import math
from pathlib import Path
from string import ascii_uppercase

from cnn_tl.core import files
from cnn_tl.core.formatting import certainty, counted, duration, percent, points, rate, readable_bytes
from cnn_tl.core.text_encoding import native
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.metrics.paired import disagreements
from cnn_tl.pages.compare import ComparedRow, ComparePage, render_comparison
from cnn_tl.pages.content import Card, Gallery
from cnn_tl.reporting import thumbnails
from cnn_tl.reporting.compare import EXAMPLES, Compared, Comparison, Difference

_UNKNOWN = "-"
_COSTS = ("mode", "backbone", "time", "parameters", "size", "speed on CPU")


def quality_cells(one: Compared) -> tuple[str, str]:
    """Return macro F1 and log loss."""
    return percent(one.macro_f1), _UNKNOWN if one.log_loss is None else f"{one.log_loss:.3f}"


def cost_columns(found: Comparison) -> dict[str, tuple[str, ...]]:
    """Return header -> a cell for each run, without the columns of which nothing is known."""
    columns = zip(_COSTS, zip(*map(_cost_cells, found.runs), strict=True), strict=True)
    return {header: cells for header, cells in columns if set(cells) != {_UNKNOWN}}


def _cost_cells(one: Compared) -> tuple[str, str, str, str, str, str]:
    """Return mode, backbone, time to train, parameters, size, and speed on the CPU of this machine."""
    if (cost := one.cost) is None:
        return (one.mode or _UNKNOWN, *(_UNKNOWN,) * 5)
    return (
        one.mode or _UNKNOWN,
        cost.backbone,
        _UNKNOWN if cost.seconds is None else duration(cost.seconds),
        _UNKNOWN if cost.parameters is None else f"{cost.parameters / 1e6:,.1f} M",
        readable_bytes(cost.bytes),
        _UNKNOWN if one.images_per_second is None else rate(one.images_per_second),
    )


def difference_cells(found: Comparison, one: Difference) -> tuple[str, str, str, str, str, str]:
    """Return the pair, its difference, the interval, what only one gets right, and p."""
    letters = dict(zip((run.run for run in found.runs), ascii_uppercase, strict=False))
    low, high = (points(end, unit="") for end in one.interval)
    return (
        f"{letters[one.baseline]} -> {letters[one.run]}",
        points(one.gain),
        f"{low} to {high}",
        f"{one.only_baseline:,}",
        f"{one.only_run:,}",
        "< 0.0001" if one.p_corrected < 0.0001 else f"{one.p_corrected:.2g}",
    )


def write_comparison(found: Comparison, output: Path) -> None:
    """Write the comparison as one HTML file.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    files.write_text(output, render_comparison(page_of(found)))


def page_of(found: Comparison) -> ComparePage:
    """Return the page of a comparison, with thumbnails of the images on which runs differ."""
    drawn, shown = _draw(found)
    costs = cost_columns(found)
    several = len(found.differences) > 1
    return ComparePage(
        title=f"{counted(len(found.runs), 'run')} on the same {counted(found.images, 'image')}",
        subtitle=", ".join(f"{ascii_uppercase[n]}: {one.run}" for n, one in enumerate(found.runs)),
        verdict=tuple(one.verdict for one in found.differences),
        headers=("macro F1", "log loss", *costs),
        models=tuple(
            ComparedRow(
                ascii_uppercase[n],
                one.run,
                one.accuracy,
                one.interval,
                (*quality_cells(one), *(cells[n] for cells in costs.values())),
            )
            for n, one in enumerate(found.runs)
        ),
        difference_headers=(
            "runs",
            "difference",
            "95% interval",
            "only the first right",
            "only the second right",
            "p, corrected" if several else "p",
        ),
        differences=tuple(difference_cells(found, one) for one in found.differences),
        galleries=shown,
        notes=(*found.notes, *drawn.notes(), *_no_previews(found)),
        data=found.to_dict(),
    )


def _no_previews(found: Comparison) -> tuple[str, ...]:
    where_unknown = all(root is None for root in found.roots)
    return ("without thumbnails, as files of answers do not say where the images lie",) if where_unknown else ()


def _draw(found: Comparison) -> tuple[thumbnails.Thumbnails, tuple[Gallery, ...]]:
    """Return the thumbnails, and a gallery of what only one of two models gets right, for each pair and both ways."""
    base, letters = found.joined.answers[0], ascii_uppercase
    pairs = []  # (letter and answers of the wrong one, of the right one, images)
    for n, other in enumerate(found.joined.answers[1:], start=1):
        pairs.append((letters[0], base, letters[n], other, disagreements(base, other)))
        pairs.append((letters[n], other, letters[0], base, disagreements(other, base)))
    wanted = {}
    for root, answers in zip(found.roots, found.joined.answers, strict=True):
        if root is not None:  # any of them shows the same images
            wanted = {int(i): root / native(answers.files[i]) for *_, at in pairs for i in at[:EXAMPLES]}
            break
    drawn = thumbnails.draw(wanted, sha256={i: base.sha256[i] for i in wanted})
    shown = []
    for loser, wrong, winner, right, at in pairs:
        if not len(at):
            continue  # the table says so
        cards = tuple(_card(int(i), wrong, right, winner, base.files[i], drawn) for i in at[:EXAMPLES])
        text = f"{counted(len(at), 'image')}"
        if len(at) > EXAMPLES:
            text += f", of which {EXAMPLES} are shown"
        text += f"; each with the answer of {loser}, its most confident mistakes first."
        shown.append(Gallery(f"{winner} right, {loser} wrong", text, cards))
    return drawn, tuple(shown)


def _card(
    i: int, wrong: LabelledAnswers, right: LabelledAnswers, winner: str, file: str, drawn: thumbnails.Thumbnails
) -> Card:
    label = wrong.classes[wrong.labels[i]]
    of_label = float(wrong.of_label[i])
    return Card(
        file=file,
        label=label,
        ranked=tuple(
            (wrong.classes[k], float(p)) for k, p in zip(wrong.ranked[i], wrong.probabilities[i], strict=True)
        ),
        of_label=None if math.isnan(of_label) else of_label,
        thumbnail=drawn.drawn.get(i),
        remarks=(f"{winner} answers {label}, {certainty(float(right.confidence[i]))}",),
        error=drawn.errors.get(i),
    )
