"""The images of a page: which are chosen, in which order they are drawn, and the cards that show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, percent
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.pages.content import Card, Gallery
from cnn_tl.reporting import selection
from cnn_tl.reporting.heat_maps import HeatMaps
from cnn_tl.reporting.selection import Indices
from cnn_tl.reporting.thumbnails import Thumbnails

WORST, LEAST_SURE, DOUBTFUL = 24, 12, 24
"""Images of each gallery."""

OTHER_MISTAKES = 160
"""Further wrong answers with thumbnails, which the cells of the confusion matrix show."""

OF_CLASSES = 240
"""Images of classes, typical and strange ones together, of which a class has at most 4 each."""


@dataclass(frozen=True)
class Chosen:
    """The images of a page, as indices among the answers.

    Attributes:
        doubtful: all labels that look wrong, of which the first `DOUBTFUL` are shown.
        classes: class -> its typical and its strange images.
        others: further mistakes.
    """

    worst: Indices
    doubtful: Indices
    least_sure: Indices
    classes: Mapping[str, tuple[Indices, Indices]]
    others: Indices

    def in_order(self) -> list[int]:
        """Return all images once, those that are needed most first."""
        return list(dict.fromkeys(self._all()))

    def for_heat_maps(self) -> list[int]:
        """Return the images of the galleries once, the mistakes first."""
        return list(dict.fromkeys([*self.worst, *self.doubtful[:DOUBTFUL], *self.least_sure]))

    def _all(self) -> Iterator[int]:
        yield from self.for_heat_maps()
        for pair in self.classes.values():
            yield from (*pair[0], *pair[1])
        yield from self.others


def choose(answers: LabelledAnswers) -> Chosen:
    """Choose the images; of many classes, only those with the most mistakes get their own."""
    mistakes = selection.worst_mistakes(answers, WORST + OTHER_MISTAKES)
    wrong_K = np.bincount(answers.labels[~answers.right], minlength=len(answers.classes))
    present = np.unique(answers.labels)
    shown = sorted(present[np.argsort(-wrong_K[present], kind="stable")][: OF_CLASSES // 4])
    each = max(2, min(4, OF_CLASSES // (2 * len(shown))))
    return Chosen(
        worst=mistakes[:WORST],
        doubtful=selection.doubtful_labels(answers),
        least_sure=selection.least_sure(answers, LEAST_SURE),
        classes={
            answers.classes[k]: (selection.typical(answers, k, each), selection.strangest(answers, k, each))
            for k in map(int, shown)
        },
        others=mistakes[WORST:],
    )


def cards(answers: LabelledAnswers, chosen: Chosen, thumbnails: Thumbnails, heat_maps: HeatMaps) -> dict[int, Card]:
    """Return a card for each chosen image, by its index."""
    doubtful = frozenset(chosen.doubtful)
    of_label_N = answers.of_label
    found = {}
    for index in chosen.in_order():
        ranked = [
            (answers.classes[k], float(share))
            for k, share in zip(answers.ranked[index], answers.probabilities[index], strict=True)
        ]
        of_label = float(of_label_N[index])
        remarks = [f"may be mislabelled: looks like {printable(ranked[0][0])}"] if index in doubtful else []
        if caveat := heat_maps.caveats.get(index):
            remarks.append(f"heat map: {caveat}")
        found[index] = Card(
            file=answers.files[index],
            label=answers.classes[answers.labels[index]],
            ranked=tuple(ranked),
            of_label=None if np.isnan(of_label) else of_label,
            thumbnail=thumbnails.drawn.get(index),
            heat_map=heat_maps.drawn.get(index),
            remarks=tuple(remarks),
            error=thumbnails.errors.get(index),
        )
    return found


def galleries(answers: LabelledAnswers, chosen: Chosen, cards: Mapping[int, Card]) -> tuple[Gallery, ...]:
    """Return the worst mistakes, the labels that look wrong, and the least sure right answers."""
    wrong = int((~answers.right).sum())
    worst = f"The most confident of {counted(wrong, 'wrong answer')}." if wrong else "No answer is wrong."
    shown = f". The {DOUBTFUL} least probable labels are shown" if len(chosen.doubtful) > DOUBTFUL else ""
    doubtful = (
        f"{counted(len(chosen.doubtful), 'image')} whose given class gets less than "
        f"{percent(selection.UNBELIEVED, 0)}, and another more than half{shown}. Look before you relabel."
        if chosen.doubtful
        else "No label is contradicted with confidence."
    )
    sure = "The right answers with the lowest probability." if chosen.least_sure else "No answer is right."

    def gallery(title: str, text: str, indices: Indices) -> Gallery:
        return Gallery(title, text, tuple(cards[index] for index in indices))

    return (
        gallery("Worst mistakes", worst, chosen.worst),
        gallery("Labels that look wrong", doubtful, chosen.doubtful[:DOUBTFUL]),
        gallery("Least sure right answers", sure, chosen.least_sure),
    )


def class_galleries(chosen: Chosen, cards: Mapping[int, Card]) -> dict[str, tuple[Gallery, Gallery]]:
    """Return the most typical and the strangest images of the chosen classes."""
    found = {}
    for name, (typical, strange) in chosen.classes.items():
        text = "" if typical else "No answer is right."
        found[name] = (
            Gallery("Most typical", text, tuple(cards[index] for index in typical)),
            Gallery("Strangest", "", tuple(cards[index] for index in strange)),
        )
    return found
