"""Probabilities from logits, and how far a count of right answers can be trusted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOTE_TEMPERATURE = 0.07
"""A neighbour's vote weighs exp(cosine / this) (Wu et al. 2018, sec. 3.4)."""

VOTE_TIE = 1e-5
"""Cosines this close are alike: a hundred times what two ways of rounding differ by."""

VOTE_SMALLEST_SHARE = 1e-6
"""What a class without a single vote gets, so that the logits stay finite."""


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927); `z` is for 95 %.

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
    return max(0.0, centre - half), min(1.0, centre + half)


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the probabilities [N, K] of logits [N, K], computed in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
