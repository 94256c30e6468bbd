"""Backbones compared in pairs on the same images: differences with intervals, what can be told apart, the Pareto front.

Shapes: N images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cnn_tl.advising.recommend.probing import Scores
from cnn_tl.core.statistics import Z95
from cnn_tl.metrics.paired import holm


@dataclass(frozen=True)
class Difference:
    """How much more accurate the second of two backbones is.

    Attributes:
        gain: the difference of their accuracies. interval: of 95%.
        p: the probability of a difference at least this large if they are equally good.
    """

    gain: float
    interval: tuple[float, float]
    p: float


def difference(first_N: Scores, second_N: Scores, groups_N: NDArray[np.int64] | None = None) -> Difference:
    """Compare two backbones by the share of repetitions in which they are right about each image.

    For one repetition without groups this is the interval of `core.statistics.compare_paired` (Bonett and Price 2012).
    That the heads of all folds share images hardly matters: over 12 samples of 500 images, of CIFAR-10 and of flowers,
    the differences of four backbones varied 0.98 times as much as this says, where the correction of Nadeau and Bengio
    (2003) would say 1.5 times.

    Images of a group are wrong together, so their differences are added up before they are squared (Liang and Zeger
    1986, the variance of clustered data).
    """
    total = len(first_N)
    apart_N = second_N - first_N
    _, unit_N = np.unique(np.arange(total) if groups_N is None else groups_N, return_inverse=True)
    apart_U = np.bincount(unit_N, apart_N)
    centre = float(apart_N.sum()) / (total + 2)
    squares = float((apart_U**2).sum()) + 2 - (total + 2) * centre**2
    error = math.sqrt(max(0.0, squares)) / (total + 2)
    p = 2 * NormalDist().cdf(-abs(centre) / error)
    interval = max(-1.0, centre - Z95 * error), min(1.0, centre + Z95 * error)
    return Difference(float(apart_N.mean()), interval, p)


def told_apart(differences: Sequence[Difference], level: float) -> list[bool]:
    """Return for each difference to the best one whether it is no chance, by Holm's method."""
    return [p < level for p in holm([one.p for one in differences])]


def on_front(criteria: Sequence[tuple[float, ...]]) -> list[bool]:
    """Return which of some alternatives no other one beats: at least as good in all criteria, and better in one.

    Args:
        criteria: of each alternative; more is better.
    """

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(mine >= theirs for mine, theirs in zip(one, other, strict=True))

    return [not any(beats(other, one) for other in criteria) for one in criteria]
