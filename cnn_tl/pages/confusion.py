"""What the page shows of the confusion matrix: cells where they fit, an overview, and the images of confused pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.pages.charts.overview import level
from cnn_tl.pages.content import Card, ReportPage

MOST_CLASSES_IN_CELLS = 40
MOST_CLASSES_IN_OVERVIEW = 100
MOST_PAIRS = 50
"""Of more classes than fit in cells, the pairs that are listed."""

THUMBNAILS_PER_PAIR = 6
IMAGES_PER_PAIR = 20
MOST_BYTES = 500_000
"""Of the images of all pairs together, without their thumbnails: about 4,000."""

_ROW = 70
"""Bytes of an image in the page besides its name, about."""


@dataclass(frozen=True)
class Cell:
    """One cell: its images, its colour (`charts.overview.level`), and whether the answer is the label."""

    images: int
    level: int
    right: bool


@dataclass(frozen=True)
class Pair:
    """The images of one class that got the answer of another, the most confident first.

    Attributes:
        cards: those with a thumbnail. rest: (file, probability of the answer) of others. images: of all of them.
    """

    label: int
    answer: int
    images: int
    cards: tuple[Card, ...]
    rest: tuple[tuple[str, float], ...]

    @property
    def left_out(self) -> int:
        """How many images are not listed."""
        return self.images - len(self.cards) - len(self.rest)


def cells_of(page: ReportPage) -> list[list[Cell]] | None:
    """Return the rows of the matrix; None if it has too many classes for a table."""
    confusion_KK = page.figures.confusion
    if len(confusion_KK) > MOST_CLASSES_IN_CELLS:
        return None
    sizes_K = np.maximum(confusion_KK.sum(axis=1), 1)
    return [
        [Cell(int(images), level(images / sizes_K[i]), i == j) for j, images in enumerate(row)]
        for i, row in enumerate(confusion_KK)
    ]


def pairs_of(page: ReportPage) -> list[Pair]:
    """Return the confused pairs, the most frequent first: all if the matrix is a table, else the first `MOST_PAIRS`."""
    few = len(page.figures.confusion) <= MOST_CLASSES_IN_CELLS
    confused = page.figures.confused()
    groups = _wrong_by_pair(page.answers)
    room, pairs = MOST_BYTES, []
    for images, label, answer in confused if few else confused[:MOST_PAIRS]:
        members = groups.get((label, answer), [])[: IMAGES_PER_PAIR if room > 0 else 0]
        with_card = [index for index in members if _has_picture(page, index)][:THUMBNAILS_PER_PAIR]
        rest = [index for index in members if index not in with_card]
        room -= sum(len(page.answers.files[index].encode("utf-8", "replace")) + _ROW for index in members)
        pairs.append(
            Pair(
                label=label,
                answer=answer,
                images=images,
                cards=tuple(page.cards[index] for index in with_card),
                rest=tuple((page.answers.files[index], float(page.answers.confidence[index])) for index in rest),
            )
        )
    return pairs


def _has_picture(page: ReportPage, index: int) -> bool:
    card = page.cards.get(index)
    return card is not None and card.thumbnail is not None


def _wrong_by_pair(answers: LabelledAnswers) -> dict[tuple[int, int], list[int]]:
    """Return (label, answer) -> its images, the most confident first."""
    wrong_W = np.flatnonzero(~answers.right)
    wrong_W = wrong_W[np.argsort(-answers.confidence[wrong_W], kind="stable")]
    groups: dict[tuple[int, int], list[int]] = {}
    for index in wrong_W:
        pair = (int(answers.labels[index]), int(answers.predicted[index]))
        groups.setdefault(pair, []).append(int(index))
    return groups
