"""Probabilities of left-out images, by ridge and logistic regression on the features of one backbone or several.

The first fits believe every label. Those that they contradict with confidence are left out of the next fits, and all
images are judged again. Every probability is of an image that the fit has not seen.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.statistics import softmax
from cnn_tl.doctor.labels.confident import suspects_of
from cnn_tl.doctor.labels.left_out import JUDGED, LeftOutRidge, rooted
from cnn_tl.doctor.labels.out_of_fold import AXES, affordable, out_of_fold_logits
from cnn_tl.doctor.labels.units import Indices, Units
from cnn_tl.heads.arrays import HostArrays
from cnn_tl.heads.calibration import best_factor

ROUNDS = 5
"""How often suspects are left out and all images judged again. Where 20% of each class was labelled as the next one,
that raised the average precision of ridge regression from 0.66 to 0.82 (flowers) and from 0.92 to 0.97 (digits); on
CIFAR-10N from 0.737 to 0.739."""

MOST = 0.5
"""Of each class, at most this share of the images is left out. Without the limit, rare classes fall victim to frequent
ones: where the largest of five had 30 times the images of the smallest, average precision fell from 0.85 to 0.78."""

Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """Logarithms of probabilities of left-out images, [N, K].

    Attributes:
        first: of fits that believe every label. final: of fits without suspects.
        fits: the kinds of fits whose mean `final` is.
    """

    first: Probabilities
    final: Probabilities
    fits: tuple[str, ...]


def judge(
    features: Sequence[NDArray[np.float32]], labels_N: Indices, num_classes: int, units: Units, seed: int
) -> Judged:
    """Judge all images.

    Args:
        features: of one backbone or several, [N, D] each.

    Raises:
        DivergedError: the features are not finite.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), closing(HostArrays()) as arrays:
        judges = [_Judge(arrays, one, labels_N, num_classes, units, seed) for one in features]
        first_NK = _mean([one.ridge() for one in judges])
        logs_NK = first_NK
        for _ in range(ROUNDS):
            suspect_N = to_leave_out(logs_NK, labels_N)
            for one in judges:
                one.leave_out(suspect_N)
            logs_NK = _mean([one.ridge() for one in judges])
        kinds, logs = ["ridge"], [logs_NK]
        others = [found for one in judges if (found := one.logistic(suspect_N)) is not None]
        if others:
            kinds.append("logistic")
            logs.append(_mean(others))
    return Judged(first_NK, _calibrated(_mean(logs), labels_N, units, seed), tuple(kinds))


class _Judge:
    """The fits on the features of one backbone."""

    def __init__(
        self,
        arrays: HostArrays,
        features_ND: NDArray[np.float32],
        labels_N: Indices,
        num_classes: int,
        units: Units,
        seed: int,
    ) -> None:
        self._labels, self._units, self._seed = labels_N, units, seed
        self._ridge = LeftOutRidge(arrays, rooted(features_ND), units)
        self._given_NK = np.eye(num_classes, dtype=np.float32)[labels_N]
        self._penalty = self._ridge.best_penalty(self._given_NK, labels_N, seed)
        self._scores_NK = self._ridge.scores(self._given_NK, self._penalty)

    def ridge(self) -> Probabilities:
        """Return the logarithms of the probabilities by ridge regression, [N, K]."""
        return _calibrated(self._scores_NK, self._labels, self._units, self._seed)

    def leave_out(self, suspect_N: NDArray[np.bool_]) -> None:
        """Fit again without the labels of suspects.

        A target that is what the fit without the image says of it changes nothing, as if the image were absent.
        """
        targets_NK = np.where(suspect_N[:, None], self._scores_NK, self._given_NK).astype(np.float32)
        self._scores_NK = self._ridge.scores(targets_NK, self._penalty)

    def logistic(self, suspect_N: NDArray[np.bool_]) -> Probabilities | None:
        """Return the logarithms of the probabilities by logistic regression without suspects; None: it is too slow."""
        num_classes = self._given_NK.shape[1]
        coordinates_NS = self._ridge.coordinates(AXES)
        images, axes = coordinates_NS.shape
        if not axes or not affordable(images, axes, num_classes):
            return None
        logits_NK = out_of_fold_logits(coordinates_NS, self._labels, ~suspect_N, num_classes, self._units, self._seed)
        return _calibrated(logits_NK, self._labels, self._units, self._seed)


def _mean(logs: Sequence[Probabilities]) -> Probabilities:
    return logs[0] if len(logs) == 1 else np.mean(logs, 0)


def _calibrated(scores_NK: Probabilities, labels_N: Indices, units: Units, seed: int) -> Probabilities:
    """Return logarithms of probabilities: scores times the factor that makes the given labels most likely."""
    images = units.sample(JUDGED, seed)
    factor, _ = best_factor(scores_NK[images], labels_N[images], np.ones(len(images)))
    shifted_NK = factor * (scores_NK - scores_NK.max(1, keepdims=True))
    return shifted_NK - np.log(np.exp(shifted_NK).sum(1, keepdims=True))  # type: ignore[no-any-return]


def to_leave_out(logs_NK: Probabilities, labels_N: Indices) -> NDArray[np.bool_]:
    """Return the suspects to leave out, [N]; a class keeps at least half of its images, the likeliest ones."""
    probabilities_NK = softmax(logs_NK)
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    suspect_N = suspects_of(probabilities_NK, labels_N)
    for k in np.unique(labels_N[suspect_N]):
        members = np.flatnonzero(suspect_N & (labels_N == k))
        most = int(MOST * (labels_N == k).sum())
        suspect_N[members[np.argsort(own_N[members], kind="stable")[most:]]] = False
    return suspect_N
