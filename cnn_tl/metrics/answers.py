"""A model's answers to labelled images, without most of the K probabilities of each: what figures and pages need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.statistics import cross_entropy, softmax

RANKS = 5
"""The most probable classes that are kept for each image."""


@dataclass(frozen=True)
class LabelledAnswers:
    """Answers to N images of K classes; the T most probable classes of each, where T = min(K, `RANKS`).

    Attributes:
        classes: the class names.
        files: the images as the user names them: relative to the data folder, with forward slashes.
        sha256: the digests of the files in hexadecimal, by which runs are joined; "" where unknown.
        labels: the index of the class that the folder gives, int64 [N].
        ranked: the indices of the most probable classes, best first, int64 [N, T].
        probabilities: their probabilities, float64 [N, T].
        losses: the cross-entropy in nats [N], -log of the probability of the label; NaN where an old file lacks it.
        distances: [N], how far the image's logits lie from the mean of its class (`class_distances`); NaN likewise.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    sha256: tuple[str, ...]
    labels: NDArray[np.int64]
    ranked: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    losses: NDArray[np.float64]
    distances: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of images, N."""
        return len(self.files)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each image."""
        return self.ranked[:, 0]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of the answer."""
        return self.probabilities[:, 0]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the answer is the label."""
        right: NDArray[np.bool_] = self.predicted == self.labels
        return right

    @property
    def of_label(self) -> NDArray[np.float64]:
        """The probability of the label; NaN where the loss is unknown."""
        return np.exp(-self.losses)


def answers_from_logits(
    logits_NK: NDArray[np.floating[Any]],
    labels_N: NDArray[np.int64],
    classes: Sequence[str],
    files: Sequence[str],
    sha256: Sequence[str] | None = None,
) -> LabelledAnswers:
    """Return the answers to N images from their logits.

    Of classes that are equally probable, the first ranks first, as `argmax` has it.
    """
    ranked, probabilities, losses = [], [], []
    for some in chunks(len(labels_N)):
        ranked_NT = _best(logits_NK[some])
        ranked.append(ranked_NT)
        probabilities.append(np.take_along_axis(softmax(logits_NK[some]), ranked_NT, axis=1))
        losses.append(cross_entropy(logits_NK[some], labels_N[some]))
    return LabelledAnswers(
        classes=tuple(classes),
        files=tuple(files),
        sha256=tuple(sha256) if sha256 is not None else ("",) * len(files),
        labels=labels_N.astype(np.int64),
        ranked=np.concatenate(ranked),
        probabilities=np.concatenate(probabilities),
        losses=np.concatenate(losses),
        distances=class_distances(logits_NK, labels_N),
    )


_AT_ONCE = 8192
"""Images whose probabilities are in memory together: 1,000 classes of as many take 65 MB."""


def chunks(images: int) -> list[slice]:
    """Return slices of at most `_AT_ONCE` images; one even of none."""
    return [slice(start, start + _AT_ONCE) for start in range(0, max(1, images), _AT_ONCE)]


def _best(logits_NK: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the classes [N, T] with the largest logits; sorting all of thousands takes twenty times as long."""
    left_NK = logits_NK.astype(np.float64)
    best = []
    for _ in range(min(RANKS, logits_NK.shape[1])):
        best.append(left_NK.argmax(axis=1))
        np.put_along_axis(left_NK, best[-1][:, None], -np.inf, axis=1)
    return np.stack(best, axis=1)


def class_distances(logits_NK: NDArray[np.floating[Any]], labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far each image's logits lie from the mean of its class, in standard deviations within classes.

    The small ones are typical of their class, the large ones strange: right or wrong, the network sees something else
    in them than in the others. Logits that differ by a constant are the same answer, so each row is centred first.
    """
    offsets_NK = np.empty(logits_NK.shape, np.float32)
    for some in chunks(len(labels_N)):
        offsets_NK[some] = logits_NK[some] - logits_NK[some].mean(axis=1, keepdims=True)
    order_N = np.argsort(labels_N, kind="stable")
    for members in np.split(order_N, np.flatnonzero(np.diff(labels_N[order_N])) + 1):
        offsets_NK[members] -= offsets_NK[members].mean(axis=0) if len(members) else 0
    np.square(offsets_NK, out=offsets_NK)
    variances_K = offsets_NK.mean(axis=0, dtype=np.float64)
    weights_K = np.divide(1, variances_K, out=np.zeros_like(variances_K), where=variances_K > 0)
    squares_N = np.concatenate([offsets_NK[some] @ weights_K for some in chunks(len(labels_N))])
    distances_N: NDArray[np.float64] = np.sqrt(squares_N / len(weights_K))
    return distances_N
