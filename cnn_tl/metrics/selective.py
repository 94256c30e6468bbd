"""What not answering would gain: the error by the share of images that is answered, and whether promises were kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.conformal import COVERAGE, members
from cnn_tl.abstention.risk import auroc, risk_coverage
from cnn_tl.core.statistics import softmax, wilson_interval
from cnn_tl.metrics.answers import LabelledAnswers, chunks

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""The shares of images for which the error is listed."""


@dataclass(frozen=True)
class RiskAt:
    """The most confident answers: at least this share of the images.

    Attributes:
        coverage: the share. images: how many these are.
        error: the share of them that is wrong; of equally confident images, those that are in are drawn at random.
        probability: the least one among them.
    """

    coverage: float
    images: int
    error: float
    probability: float


@dataclass(frozen=True)
class PromiseCheck:
    """What became of a promise about errors on these images.

    Attributes:
        max_error: the share of answers that is wrong at most, as promised.
        least: answers at least this probable are given, unless the image is called unknown; None: nothing can be
            promised, so no image is answered, and reason: why. Else it is "".
        answered, wrong: the images that are answered, and how many of the answers are wrong.
        coverage: the share of images that are answered.
        error: the share of the answers that is wrong, interval: its 95% Wilson score interval; None without answers.
    """

    max_error: float
    least: float | None
    reason: str
    answered: int
    wrong: int
    coverage: float
    error: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class SetCheck:
    """How good sets of classes are on these images.

    Attributes:
        coverage: how often a set is to hold the true class.
        held: how often it does. interval: its 95% Wilson score interval.
        mean_size: classes in a set. single: the share of sets of one class.
    """

    coverage: float
    held: float
    interval: tuple[float, float]
    mean_size: float
    single: float


@dataclass(frozen=True)
class UnknownCheck:
    """How well images that show none of the classes are told from these.

    Attributes:
        folder: as given by the caller, printable.
        images: how many could be read. unreadable: how many could not.
        called_unknown: the share of them whose features lie too far away; None where the model has no distances.
        answered: the share of them that would be answered.
        auroc_of_distance: the probability that one of them lies further away than one of the labelled images, which is
            the area under the ROC curve; None likewise.
        auroc_of_probability: the same for less probable answers.
        auroc_of_both: the same for the mean of both ranks among the labelled images; None without distances.
    """

    folder: str
    images: int
    unreadable: int
    called_unknown: float | None
    answered: float
    auroc_of_distance: float | None
    auroc_of_probability: float
    auroc_of_both: float | None


@dataclass(frozen=True)
class Abstention:
    """What not answering gains.

    Attributes:
        risk: the error by the share of images answered, for each of `COVERAGES`.
        aurc: the mean error over all shares, the area under the risk-coverage curve; the lower the better.
        excess_aurc: how much of it is due to the order of the probabilities and not to the accuracy; 0 is best.
        called_unknown: the share of the labelled images that are called unknown; None where the model has no distances.
        unknown_share: of --unknown; None where it was not asked for.
        promise: of --max-error; None where it was not asked for.
        sets: None where the model has no thresholds for them.
        unknown: of --unknown-images; None where it was not asked for.
    """

    risk: tuple[RiskAt, ...]
    aurc: float
    excess_aurc: float
    called_unknown: float | None = None
    unknown_share: float | None = None
    promise: PromiseCheck | None = None
    sets: SetCheck | None = None
    unknown: UnknownCheck | None = None


def top_probabilities(logits_NK: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the highest probability of each image [N]."""
    return np.concatenate([softmax(logits_NK[some]).max(axis=1) for some in chunks(len(logits_NK))])


def abstention_of(answers: LabelledAnswers) -> Abstention:
    """Return the error by the share of images answered, of at least one image."""
    found = risk_coverage(answers.confidence, answers.right)
    sorted_N = np.sort(answers.confidence)[::-1]
    rows = []
    for coverage in COVERAGES:
        images = math.ceil(coverage * len(answers) - 1e-9)
        rows.append(RiskAt(coverage, images, found.risk_at(coverage), float(sorted_N[images - 1])))
    return Abstention(tuple(rows), found.aurc, found.excess_aurc)


def check_promise(
    max_error: float, least: float | None, reason: str, answers: LabelledAnswers, answered_N: NDArray[np.bool_]
) -> PromiseCheck:
    """Return how many of the images [N] that are answered are wrong."""
    answered, wrong = int(answered_N.sum()), int((answered_N & ~answers.right).sum())
    interval = wilson_interval(wrong, answered) if answered else None
    error = wrong / answered if answered else None
    return PromiseCheck(max_error, least, reason, answered, wrong, answered / len(answers), error, interval)


def check_sets(
    logits_NK: NDArray[np.floating[Any]],
    labels_N: NDArray[np.int64],
    least_K: NDArray[np.floating[Any]],
    coverage: float = COVERAGE,
) -> SetCheck:
    """Return how often sets hold the true class, given the least probability [K] of a class in them."""
    images, held, sizes = len(labels_N), 0, []
    for some in chunks(images):
        sets_NK = members(softmax(logits_NK[some]), least_K)
        held += int(sets_NK[np.arange(len(sets_NK)), labels_N[some]].sum())
        sizes.append(sets_NK.sum(axis=1))
    sizes_N = np.concatenate(sizes)
    interval = wilson_interval(held, images)
    return SetCheck(coverage, held / images, interval, float(sizes_N.mean()), float((sizes_N == 1).mean()))


@dataclass(frozen=True)
class Signals:
    """The two signals of N images, and what follows from them.

    Attributes:
        confidence: the probability of the answer [N].
        distance: [N]; None where the model has none.
        unknown: whether an image is called unknown [N]; False where the model has no distances.
        answered: whether it is answered [N].
    """

    confidence: NDArray[np.floating[Any]]
    distance: NDArray[np.floating[Any]] | None
    unknown: NDArray[np.bool_]
    answered: NDArray[np.bool_]


def check_unknown(folder: str, unreadable: int, known: Signals, foreign: Signals) -> UnknownCheck:
    """Return how well the foreign images, of which there is at least one, are told from the known ones."""
    of_distance = of_both = None
    if known.distance is not None and foreign.distance is not None:
        of_distance = auroc(known.distance, foreign.distance)
        known_N, foreign_M = (
            _ranks(known.distance, distances) + _ranks(-known.confidence, -one.confidence)
            for one, distances in ((known, known.distance), (foreign, foreign.distance))
        )
        of_both = auroc(known_N, foreign_M)
    return UnknownCheck(
        folder=folder,
        images=len(foreign.confidence),
        unreadable=unreadable,
        called_unknown=None if of_distance is None else float(foreign.unknown.mean()),
        answered=float(foreign.answered.mean()),
        auroc_of_distance=of_distance,
        auroc_of_probability=auroc(-known.confidence, -foreign.confidence),
        auroc_of_both=of_both,
    )


def _ranks(known_N: NDArray[np.floating[Any]], values_M: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the mid-rank of each value among those of the known images, [M]."""
    sorted_N = np.sort(known_N)
    return (np.searchsorted(sorted_N, values_M, "left") + np.searchsorted(sorted_N, values_M, "right")) / 2
