"""How sure scores are: the factor that turns them into honest logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FACTORS = np.logspace(-1, 4, 51)
"""Three steps double the factor, which is closer than a few hundred pictures can tell."""

UNSEEN = 1.0
"""Pictures of other classes that every training set is imagined to hold besides its own, spread over all of them."""


def best_factor(
    scores_NK: NDArray[np.float64], labels_N: NDArray[np.int64], weights_N: NDArray[np.float64]
) -> tuple[float, float]:
    """Return the factor whose softmax makes the labels most likely, and the weighted mean of that log likelihood.

    The scores must be those of pictures that were left out of the fit. The targets are smoothed by 1 / (N + 1), as
    Platt (1999, sec. 2.2) smooths his: where hardly any left-out picture is wrong, the likelihood alone would ask for
    any factor, and the first picture that is wrong afterwards would pay for it.
    """
    smoothing = UNSEEN / (len(labels_N) + UNSEEN)
    each = np.arange(len(labels_N))
    shifted_NK = scores_NK - scores_NK.max(1, keepdims=True)
    likelihoods = []
    for factor in FACTORS:
        logits_NK = factor * shifted_NK
        logs_NK = logits_NK - np.log(np.exp(logits_NK).sum(1, keepdims=True))
        smoothed_N = (1 - smoothing) * logs_NK[each, labels_N] + smoothing * logs_NK.mean(1)
        likelihoods.append(float(np.average(smoothed_N, weights=weights_N)))
    best = int(np.argmax(likelihoods))
    return float(FACTORS[best]), likelihoods[best]
