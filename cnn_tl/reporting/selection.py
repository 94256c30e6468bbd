"""Which images a page shows: the worst mistakes, the least sure right answers, typical and strange ones of a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.metrics.answers import LabelledAnswers

UNBELIEVED = 0.05
"""The probability of the label below which the model contradicts it flatly."""

Indices = list[int]


def worst_mistakes(answers: LabelledAnswers, most: int) -> Indices:
    """Return the wrong answers, the most confident first."""
    return _ordered(-answers.confidence, ~answers.right, most)


def least_sure(answers: LabelledAnswers, most: int) -> Indices:
    """Return the right answers, the least confident first."""
    return _ordered(answers.confidence, answers.right, most)


def typical(answers: LabelledAnswers, label: int, most: int) -> Indices:
    """Return the right answers of a class whose logits lie nearest to the mean of the class, the nearest first.

    Where distances are unknown, the most confident first.
    """
    return _ordered(_strangeness(answers), answers.right & (answers.labels == label), most)


def strangest(answers: LabelledAnswers, label: int, most: int) -> Indices:
    """Return the images of a class, right or wrong, whose logits lie farthest from the mean of the class first."""
    return _ordered(-_strangeness(answers), answers.labels == label, most)


def doubtful_labels(answers: LabelledAnswers) -> Indices:
    """Return the images whose labels look wrong, the least believed label first.

    Those that confident learning counts as mislabelled (Northcutt et al. 2021, "Confident learning", sec. 3.1): the
    answer is another class, with at least the mean probability that images labelled with that class get for it.
    Moreover, the label's own probability is below `UNBELIEVED`, and the answer's is above that of all other classes
    together: with a thousand classes, or one image of each, the mean alone is no evidence.
    """
    of_label_N = believed(answers)
    thresholds_K = np.full(len(answers.classes), np.inf)  # no image has the label: nothing to compare with
    for label in np.unique(answers.labels):
        thresholds_K[label] = of_label_N[answers.labels == label].mean()
    contradicts_N = ~answers.right & (of_label_N < UNBELIEVED) & (answers.confidence > 0.5)
    return _ordered(of_label_N, contradicts_N & (answers.confidence >= thresholds_K[answers.predicted]), len(answers))


def believed(answers: LabelledAnswers) -> NDArray[np.float64]:
    """Return the probability of each label [N]; where the loss of a wrong answer is unknown, the most it can be."""
    at_most_N = np.where(answers.right, answers.confidence, 1 - answers.confidence)
    return np.where(np.isnan(answers.losses), at_most_N, answers.of_label)


def _strangeness(answers: LabelledAnswers) -> NDArray[np.float64]:
    return np.where(np.isnan(answers.distances), 1 - believed(answers), answers.distances)


def _ordered(keys_N: NDArray[np.float64], among_N: NDArray[np.bool_], most: int) -> Indices:
    """Return the indices of the `most` smallest keys among some of the images; ties in the order of the images."""
    found = np.flatnonzero(among_N)
    return [int(index) for index in found[np.argsort(keys_N[found], kind="stable")][:most]]
