"""Two or more models on the same images: join their answers by content, and compare them in pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.statistics import Z95, PairedComparison
from cnn_tl.metrics.answers import LabelledAnswers

_Z80 = 0.8416212335729143
"""The 80% point of the normal distribution, for tests that find a difference four times in five."""


@dataclass(frozen=True)
class Joined:
    """The images that several models have in common.

    Attributes:
        answers: of each model to the M common images, in the order of the first model.
        relabelled: images that they have in common under different labels; left out.
        trained_on: images that one of them was trained on; left out.
    """

    answers: tuple[LabelledAnswers, ...]
    relabelled: int
    trained_on: int

    def __len__(self) -> int:
        """Return the number of common images, M."""
        return len(self.answers[0])


def join(models: Sequence[LabelledAnswers], trained_on: Collection[str] = ()) -> Joined:
    """Join answers by the SHA-256 and the label of their images.

    Files of equal content are joined one to one, the first with the first: never each with each.

    Args:
        trained_on: the SHA-256 of images that one of the models was trained on.
    """
    keyed = [_occurrences([(one.sha256[i], one.classes[one.labels[i]]) for i in range(len(one))]) for one in models]
    common = set(keyed[0]).intersection(*keyed[1:])
    kept = [key for key in keyed[0] if key in common and key[0][0] not in trained_on]
    by_content = [Counter(digest for digest in one.sha256 if digest) for one in models]
    same_content = sum(min(one[digest] for one in by_content) for digest in by_content[0])
    return Joined(
        answers=tuple(select(one, [index[key] for key in kept]) for one, index in zip(models, keyed, strict=True)),
        relabelled=same_content - len(common),
        trained_on=len(common) - len(kept),
    )


def select(answers: LabelledAnswers, indices: Sequence[int]) -> LabelledAnswers:
    """Return the answers to some of the images."""
    at_M = np.array(indices, dtype=np.int64)
    return replace(
        answers,
        files=tuple(answers.files[i] for i in indices),
        sha256=tuple(answers.sha256[i] for i in indices),
        labels=answers.labels[at_M],
        ranked=answers.ranked[at_M],
        probabilities=answers.probabilities[at_M],
        losses=answers.losses[at_M],
        distances=answers.distances[at_M],
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Holm 1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


def images_needed(found: PairedComparison, images: int) -> int | None:
    """Return how many images would show a difference as large as the observed one, four times in five, at 5%.

    This is the sample size of McNemar's test (Connor 1987, "Sample size for testing differences in proportions for the
    paired-sample design", eq. 3) at the observed shares; None if the models are equally good.
    """
    if found.gain == 0:
        return None
    unlike = (found.only_first + found.only_second) / images
    root = Z95 * math.sqrt(unlike) + _Z80 * math.sqrt(max(0.0, unlike - found.gain**2))
    return math.ceil((root / found.gain) ** 2)


def disagreements(wrong: LabelledAnswers, right: LabelledAnswers) -> NDArray[np.int64]:
    """Return the joined images that only the second model gets right, the first's most confident mistakes first."""
    at = np.flatnonzero(~wrong.right & right.right)
    order: NDArray[np.int64] = at[np.argsort(-wrong.confidence[at], kind="stable")]
    return order


_Key = tuple[tuple[str, str], int]


def _occurrences(images: Sequence[tuple[str, str]]) -> dict[_Key, int]:
    """Return (image, which of its copies) -> index; images of unknown content are left out."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for index, image in enumerate(images):
        if image[0]:
            found[image, seen[image]] = index
            seen[image] += 1
    return found
