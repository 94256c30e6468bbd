"""Probabilities from logits, how far a count of right answers can be trusted, and two models compared."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5% point of the normal distribution, for intervals of 95%."""

VOTE_TEMPERATURE = 0.07
"""A neighbour's vote weighs exp(cosine / this) (Wu et al. 2018, sec. 3.4)."""

VOTE_TIE = 1e-5
"""Cosines this close are alike: a hundred times what two ways of rounding differ by."""

VOTE_SMALLEST_SHARE = 1e-6
"""What a class without a single vote gets, so that the logits stay finite."""


SIGNIFICANT = 0.05


def wilson_interval(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927); `z` is for 95%.

    Unlike the textbook p ± z·sqrt(p(1-p)/n) it stays inside [0, 1] and is honest for few trials and for p near 1.

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials")
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / denominator
    # where all or none succeed, the formula's end is 1 or 0, which its floats miss by a last bit
    return max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < trials else 1.0


RELIABLE = (0.9, 0.95, 0.99)
"""Accuracies for which `thresholds` looks."""


def thresholds(probabilities_NK: NDArray[np.float64], labels_N: NDArray[np.int64]) -> list[dict[str, float]]:
    """Say how sure an answer must be, so that answers at least as sure are right often enough.

    For each accuracy of `RELIABLE` the least probability of the first class from which on the answers to these images
    were right so often that the whole 95% interval lies above (selective classification; Geifman and El-Yaniv 2017,
    "Selective classification for deep neural networks", sec. 3, bound the risk so, too). None for an accuracy that so
    few images cannot prove.

    Returns:
        `accuracy`, `probability`, and the `share` of the images that were answered as surely.
    """
    right_N = probabilities_NK.argmax(1) == labels_N
    sureness_N = probabilities_NK.max(1)
    order_N = np.argsort(-sureness_N, kind="stable")
    rights = np.cumsum(right_N[order_N])
    found = []
    for accuracy in RELIABLE:
        enough = [n for n in range(1, len(order_N) + 1) if wilson_interval(int(rights[n - 1]), n)[0] >= accuracy]
        if enough:  # with one more image the interval would reach below
            least = float(sureness_N[order_N[enough[-1] - 1]])
            found.append({"accuracy": accuracy, "probability": least, "share": enough[-1] / len(order_N)})
    return found


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same images.

    Attributes:
        only_first, only_second: images that only one of them gets right; the others tell nothing.
        gain: by how much the second's accuracy is higher. interval: its 95% confidence interval.
        p: how likely at least such an imbalance is if neither model is better (McNemar 1947, exact form); at most,
            where the second was chosen from several.
    """

    only_first: int
    only_second: int
    gain: float
    interval: tuple[float, float]
    p: float

    @property
    def more_than_chance(self) -> bool:
        """Whether the second is better, and not by luck at the level of 5%."""
        return self.gain > 0 and self.p < SIGNIFICANT

    @property
    def worse_than_chance(self) -> bool:
        """Whether the second is worse, and not by bad luck at the level of 5%."""
        return self.gain < 0 and self.p < SIGNIFICANT


def compare_paired(
    first: NDArray[np.bool_], second: NDArray[np.bool_], *, chosen_from: int = 1, z: float = Z95
) -> PairedComparison:
    """Compare two models by which images [N] they get right.

    The interval is Bonett and Price's (2012), which holds for few images too.

    Args:
        chosen_from: of how many candidates the second is the one that is best on these very images; p is multiplied
            by it (Bonferroni's bound, Dunn 1961), or the best of many would beat the first by luck.

    Raises:
        ValueError: there are no images, or not the same number.
    """
    from scipy.stats import binomtest

    total = len(first)
    if total == 0 or total != len(second):
        raise ValueError(f"{total} and {len(second)} images")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    differing = only_first + only_second
    p = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    p = min(1.0, chosen_from * p)
    one, other = (only_first + 1) / (total + 2), (only_second + 1) / (total + 2)
    half = z * math.sqrt((one + other - (other - one) ** 2) / (total + 2))
    interval = max(-1.0, other - one - half), min(1.0, other - one + half)
    return PairedComparison(only_first, only_second, (only_second - only_first) / total, interval, p)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the probabilities [N, K] of logits [N, K], computed in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
