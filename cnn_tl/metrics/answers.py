"""A model's answers to labelled images, without most of the K probabilities of each: what figures and pages need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.statistics import softmax

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
    probabilities_NK = softmax(logits_NK)
    ranked_NT = np.argsort(-probabilities_NK, axis=1, kind="stable")[:, :RANKS]
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True)
    of_label_N = shifted_NK[np.arange(len(labels_N)), labels_N]
    return LabelledAnswers(
        classes=tuple(classes),
        files=tuple(files),
        sha256=tuple(sha256) if sha256 is not None else ("",) * len(files),
        labels=labels_N.astype(np.int64),
        ranked=ranked_NT,
        probabilities=np.take_along_axis(probabilities_NK, ranked_NT, axis=1),
        losses=np.log(np.exp(shifted_NK).sum(axis=1)) - of_label_N,
        distances=class_distances(shifted_NK, labels_N),
    )


def class_distances(logits_NK: NDArray[np.float64], labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far each image's logits lie from the mean of its class, in standard deviations within classes.

    The small ones are typical of their class, the large ones strange: right or wrong, the network sees something else
    in them than in the others. Logits that differ by a constant are the same answer, so each row is centred first.
    """
    centred_NK = logits_NK - logits_NK.mean(axis=1, keepdims=True)
    present, inverse_N = np.unique(labels_N, return_inverse=True)
    means = np.zeros((len(present), logits_NK.shape[1]))
    np.add.at(means, inverse_N, centred_NK)
    means /= np.bincount(inverse_N)[:, None]
    offsets_NK = centred_NK - means[inverse_N]
    spread_K = np.sqrt((offsets_NK**2).mean(axis=0))
    scaled_NK = offsets_NK / np.where(spread_K > 0, spread_K, 1.0)
    distances_N: NDArray[np.float64] = np.sqrt((scaled_NK**2).mean(axis=1))
    return distances_N
