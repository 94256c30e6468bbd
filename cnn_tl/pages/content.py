"""What a page shows, as plain data: whoever makes a page fills these in, and the templates draw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.metrics.figures import Figures
from cnn_tl.pages.charts.learning_curve import Mark


@dataclass(frozen=True)
class Card:
    """One image with its answer.

    Attributes:
        file: as the user names it, relative to the data folder; shown and copied, never opened.
        label: the class that the folder gives; None where there is none.
        ranked: the most probable classes and their probabilities, best first; empty if it could not be read.
        of_label: the probability of the label; None where it is unknown.
        thumbnail: a WebP or JPEG file; None: not drawn.
        heat_map: the same with a heat map over it, for the class that is answered.
        remarks: such as "may be mislabelled: looks like steak".
        error: why the image could not be read.
        verdict, members, distance: as `verdict`, `set` and `distance` of an `Answer`; None where they are not shown.
        withheld: whether the answer is withheld, so that it is shown as what the model would have said.
    """

    file: str
    label: str | None
    ranked: tuple[tuple[str, float], ...]
    of_label: float | None = None
    thumbnail: bytes | None = None
    heat_map: bytes | None = None
    remarks: tuple[str, ...] = ()
    error: str | None = None
    verdict: str | None = None
    members: tuple[str, ...] | None = None
    distance: float | None = None
    withheld: bool = False


@dataclass(frozen=True)
class Gallery:
    """Cards under a title, such as the worst mistakes; `text` says how they were chosen. No cards: `text` alone."""

    title: str
    text: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Table:
    """Names and values with remarks: cost, data, versions."""

    title: str
    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class SavedCurve:
    """A learning curve.

    Attributes:
        verdict: what twice as many images would bring. check: how well the first half foretold the whole.
        measured, foretold: their points, ascending; one is measured at least.
    """

    verdict: str
    check: str
    measured: Sequence[Mark]
    foretold: Sequence[Mark]


@dataclass(frozen=True)
class ReportPage:
    """The page of one model on labelled images.

    Attributes:
        title, subtitle: such as "runs/dishes-freeze" and "freeze, tf_efficientnet_lite0, 75 validation images".
        verdict: three sentences: how good, how sure, what would help most.
        figures: all figures; embedded as JSON too.
        answers: the images that figures are about; the page lists as many of them as fit.
        cards: index among `answers` -> its card, for the images with thumbnails.
        galleries: worst mistakes, least sure right answers, labels that look wrong.
        class_galleries: class -> its most typical and its strangest images; of many, the classes with most mistakes.
        epochs: the rows of metrics.jsonl of a loop, in order; empty without a loop.
        kept_epoch: the epoch whose weights are kept; None: not known, or no loop.
        learning_curve: None: it was not asked for.
        promise: what share of errors the model can promise, or why none; None: not known.
        tables: cost, data, and how to do it again.
        commands: lines for the shell with which to do it again.
        facts: everything else for the JSON: run, versions, digests.
        heat_map_method: "gradcam" or "occlusion"; None without heat maps.
        notes: remarks about the page itself, such as thumbnails that were left out for time.
    """

    title: str
    subtitle: str
    verdict: tuple[str, str, str]
    figures: Figures
    answers: LabelledAnswers
    cards: Mapping[int, Card]
    galleries: tuple[Gallery, ...]
    class_galleries: Mapping[str, tuple[Gallery, Gallery]]
    epochs: Sequence[Mapping[str, Any]] = ()
    kept_epoch: int | None = None
    learning_curve: SavedCurve | None = None
    promise: str | None = None
    tables: tuple[Table, ...] = ()
    commands: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    heat_map_method: str | None = None
    notes: tuple[str, ...] = ()
