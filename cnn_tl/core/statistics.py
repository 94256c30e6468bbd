"""Statistics of answers: confidence intervals of an accuracy, comparing two models, softmax, log loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5% point of the normal distribution, for intervals of 95%."""

VOTE_TEMPERATURE = 0.07
"""The weight of a neighbour's vote is exp(cosine / this) (Wu et al. 2018, sec. 3.4)."""

VOTE_TIE = 1e-5
"""Cosines this close count as equal: a hundred times the difference between two ways of rounding."""

VOTE_SMALLEST_SHARE = 1e-6
"""The share of a class without any votes, so that the logits stay finite."""

SIGNIFICANT = 0.05
"""The significance level of comparisons."""


def wilson_interval(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927); the default `z` gives 95%.

    Unlike the textbook p ± z·sqrt(p(1-p)/n) it stays inside [0, 1] and is accurate for few trials and for p near 1. It
    equals `scipy.stats.binomtest(k, n).proportion_ci(method="wilson")`, as a test verifies; but importing `scipy.stats`
    takes a second, as long as a whole run from the cache.

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials")
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / denominator
    # if all or none succeed, one end is exactly 1 or 0, which floating-point arithmetic misses by one bit
    return max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < trials else 1.0


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same images.

    Attributes:
        only_first, only_second: images that only one of them gets right; the others carry no information.
        gain: the accuracy of the second minus that of the first. interval: its 95% confidence interval.
        p: the probability of an imbalance at least this large if neither model is better (McNemar 1947, exact form); an
            upper bound, if the second was chosen from several.
    """

    only_first: int
    only_second: int
    gain: float
    interval: tuple[float, float]
    p: float

    @property
    def more_than_chance(self) -> bool:
        """Whether the second is significantly better, at the 5% level."""
        return self.gain > 0 and self.p < SIGNIFICANT

    @property
    def worse_than_chance(self) -> bool:
        """Whether the second is significantly worse, at the 5% level."""
        return self.gain < 0 and self.p < SIGNIFICANT


def compare_paired(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, chosen_from: int = 1, z: float = Z95
) -> PairedComparison:
    """Compare two models by the images [N] that they get right.

    The interval is that of Bonett and Price (2012), which is also valid for few images.

    Args:
        chosen_from: the number of candidates from which the second was chosen as the best on these same images; p is
            multiplied by it (Bonferroni's bound, Dunn 1961), or the best of many would win by luck.

    Raises:
        ValueError: there are no images, or different numbers of them.
    """
    total = len(first)
    if total == 0 or total != len(second):
        raise ValueError(f"{total} and {len(second)} images")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    p = min(1.0, chosen_from * _sign_test(only_first, only_second))
    one, other = (only_first + 1) / (total + 2), (only_second + 1) / (total + 2)
    half = z * math.sqrt((one + other - (other - one) ** 2) / (total + 2))
    interval = max(-1.0, other - one - half), min(1.0, other - one + half)
    return PairedComparison(only_first, only_second, (only_second - only_first) / total, interval, p)


def _sign_test(one: int, other: int) -> float:
    """Return the probability that fair coins divide at least as unevenly: McNemar's exact test, two-sided."""
    total, fewer = one + other, min(one, other)
    logs = (math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(fewer + 1))
    return min(1.0, 2 * math.fsum(math.exp(log - total * math.log(2)) for log in logs))


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the probabilities [N, K] of logits [N, K], computed in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def cross_entropy(logits_NK: NDArray[np.floating[Any]], labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cross-entropy [N] in nats, from the logits, as a probability may round to 0."""
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(axis=1, keepdims=True)
    losses_N: NDArray[np.float64] = (
        np.log(np.exp(shifted_NK).sum(axis=1)) - shifted_NK[np.arange(len(labels_N)), labels_N]
    )
    return losses_N


def log_loss(
    logits_NK: NDArray[np.floating[Any]], labels_N: NDArray[np.int64], weights_N: NDArray[np.float64] | None = None
) -> float:
    """Return the weighted mean cross-entropy in nats."""
    return float(np.average(cross_entropy(logits_NK, labels_N), weights=weights_N))
