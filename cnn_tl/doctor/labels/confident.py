"""Confident learning: how many labels are wrong, and which (Northcutt, Jiang and Chuang 2021).

An image counts as another class if its probability of that class is at least the mean that images labelled so have. The
counts equal those of cleanlab 2.9 on the same probabilities, as a test verifies; its tolerances are repeated here.

Shapes: N images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Probabilities = NDArray[np.float64]

TOLERANCE = 1e-6
"""Differences of probabilities that count as none."""


@dataclass(frozen=True)
class Confident:
    """What confident learning says.

    Attributes:
        joint: given class x likely class, int64 [K, K]: images confidently of a class; the diagonal at least 1.
        wrong: whether the label of an image is likely wrong, [N].
    """

    joint: Indices
    wrong: NDArray[np.bool_]

    @property
    def count(self) -> int:
        """How many labels are likely wrong."""
        return int(self.wrong.sum())


def thresholds_of(probabilities_NK: Probabilities, labels_N: Indices) -> Probabilities:
    """Return the mean probability of each class among images labelled so, [K]; 2 for a class without images."""
    num_classes = probabilities_NK.shape[1]
    counts_K = np.bincount(labels_N, minlength=num_classes)
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    means_K = np.bincount(labels_N, own_N, num_classes) / np.maximum(counts_K, 1)
    return np.where(counts_K > 0, np.maximum(means_K, 2 * TOLERANCE), 2.0)


def confident_learning(probabilities_NK: Probabilities, labels_N: Indices) -> Confident:
    """Return the confident joint (sec. 3.1, eq. 1) and its images off the diagonal whose best class is not the given.

    Args:
        probabilities_NK: of images that were left out of the fit.
    """
    num_classes = probabilities_NK.shape[1]
    confident_NK = probabilities_NK >= thresholds_of(probabilities_NK, labels_N) - TOLERANCE
    several_N = confident_NK.sum(1) > 1
    likely_N = np.where(several_N, probabilities_NK.argmax(1), confident_NK.argmax(1))
    judged_N = confident_NK.any(1)
    joint_KK = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint_KK, (labels_N[judged_N], likely_N[judged_N]), 1)
    np.fill_diagonal(joint_KK, np.maximum(joint_KK.diagonal(), 1))
    favoured_NK = probabilities_NK.copy()
    favoured_NK[np.arange(len(labels_N)), labels_N] += TOLERANCE
    return Confident(joint_KK, judged_N & (likely_N != labels_N) & (favoured_NK.argmax(1) != labels_N))


def best_other(probabilities_NK: Probabilities, labels_N: Indices) -> Indices:
    """Return the most likely other class of each image, [N]."""
    others_NK = probabilities_NK.copy()
    others_NK[np.arange(len(labels_N)), labels_N] = -1
    best_N: Indices = others_NK.argmax(1)
    return best_N


def suspects_of(probabilities_NK: Probabilities, labels_N: Indices) -> NDArray[np.bool_]:
    """Return the images whose label is suspect, [N].

    They are those least likely as labelled, as many as confident learning counts, of which another class is also more
    likely than the given one in relation to how frequent both are: none is suspect only because its class is rare. On
    CIFAR-10N 73% of them are wrong, of those that confident learning names itself 60%.
    """
    each = np.arange(len(labels_N))
    own_N, other_N = probabilities_NK[each, labels_N], best_other(probabilities_NK, labels_N)
    counts_K = np.bincount(labels_N, minlength=probabilities_NK.shape[1])
    likelier_N = probabilities_NK[each, other_N] * counts_K[labels_N] > own_N * counts_K[other_N] + TOLERANCE
    first_N = np.zeros(len(labels_N), bool)
    first_N[np.argsort(own_N, kind="stable")[: confident_learning(probabilities_NK, labels_N).count]] = True
    return first_N & likelier_N
