"""Labels that look wrong: a ranking of all images, and which of them are suspects.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.doctor.collection import Collection
from cnn_tl.doctor.labels.confident import Probabilities, best_other, confident_learning, suspects_of
from cnn_tl.doctor.labels.judges import Judged, judge
from cnn_tl.doctor.labels.neighbours import nearest_disagreeing
from cnn_tl.doctor.labels.units import Indices, units_of

SHOWN = 1_000
"""The nearest images are looked for of all suspects, and of at least so many images: those ranked first."""

SIGNIFICANT = 2.0
"""Standard errors of the mean."""


@dataclass(frozen=True)
class WrongLabels:
    """How wrong the label of each image looks.

    Suspects are those of `confident.suspects_of`, but none if the features tell too little, and no image whose class
    has no other.

    Attributes:
        given, suggested: classes, int64 [N]; the suggested one is the most likely other class.
        score: the higher the more suspect, [N]: the negative logarithm of the probability of the given class. It is 0
            where the class has no other image (twins aside), so that nothing can be said.
        probability: of the given class, [N]. suggested_probability: of the suggested one, [N].
        suspect: bool [N].
        order: all images, the most suspect first, int64 [N].
        nearest: image -> the most similar images with another label, the nearest first, at most 5; of all suspects and
            of at least the first 1,000 images of the ranking.
        estimated: how many labels are wrong by confident learning; means nothing if not `informative`.
        informative: whether the features predict the labels significantly better than the frequencies of the classes.
        fits: the kinds of fits whose mean the probabilities are.
        probabilities: of all classes, [N, K], of left-out images.
    """

    given: Indices
    suggested: Indices
    score: Probabilities
    probability: Probabilities
    suggested_probability: Probabilities
    suspect: NDArray[np.bool_]
    order: Indices
    nearest: dict[int, tuple[int, ...]]
    estimated: int
    informative: bool
    fits: tuple[str, ...]
    probabilities: Probabilities


def wrong_labels_of(
    collection: Collection,
    seed: int,
    groups_N: Indices | None = None,
    more: Sequence[NDArray[np.float32]] = (),
) -> WrongLabels:
    """Rank all images of a collection, with features of further backbones too where there are any."""
    features = [collection.features, *more]
    return find_wrong_labels(features, collection.labels, len(collection.classes), seed, groups_N)


def find_wrong_labels(
    features: Sequence[NDArray[np.float32]],
    labels_N: Indices,
    num_classes: int,
    seed: int,
    groups_N: Indices | None = None,
) -> WrongLabels:
    """Rank all images by how wrong their labels look.

    Args:
        features: of one backbone or several, [N, D] each; of the first one the nearest images are.
        labels_N: in 0..K-1.
        groups_N: the group of each image; a negative one: it is alone. Images of a group, such as twins, are always
            left out together, so that they never vouch for each other.

    Raises:
        DivergedError: the features are not finite.
    """
    labels_N = labels_N.astype(np.int64)
    units = units_of(groups_N, len(labels_N))
    certain_NK = np.log(np.maximum(np.eye(num_classes)[labels_N], np.finfo(float).tiny))
    judged = Judged(certain_NK, certain_NK, ())
    if len(np.unique(labels_N)) > 1:
        judged = judge(features, labels_N, num_classes, units, seed)
    logs_NK = judged.final
    probabilities_NK = np.exp(logs_NK)
    each, frequency_K = np.arange(len(labels_N)), np.bincount(labels_N, minlength=num_classes) / len(labels_N)
    suggested_N = best_other(probabilities_NK, labels_N)
    judged_N = units.companions(labels_N, num_classes) > 0
    score_N = np.where(judged_N, -logs_NK[each, labels_N], 0.0)
    informative = _informative(judged.first[each, labels_N], frequency_K[labels_N])
    suspect_N = suspects_of(probabilities_NK, labels_N) & judged_N & informative
    order = np.argsort(-score_N, kind="stable")
    looked_for = np.union1d(order[:SHOWN], np.flatnonzero(suspect_N))
    return WrongLabels(
        given=labels_N,
        suggested=suggested_N,
        score=score_N,
        probability=probabilities_NK[each, labels_N],
        suggested_probability=probabilities_NK[each, suggested_N],
        suspect=suspect_N,
        order=order,
        nearest=nearest_disagreeing(features[0], labels_N, looked_for),
        estimated=confident_learning(probabilities_NK, labels_N).count,
        informative=informative,
        fits=judged.fits,
        probabilities=probabilities_NK,
    )


def _informative(own_logs_N: Probabilities, frequency_N: Probabilities) -> bool:
    """Return whether the mean log likelihood of the labels beats that of the class frequencies by two deviations."""
    gains_N = own_logs_N - np.log(frequency_N)
    return bool(gains_N.mean() > SIGNIFICANT * gains_N.std() / np.sqrt(len(gains_N)))
