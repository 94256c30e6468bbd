"""How well a few binned values tell one group of images from the rest: naive Bayes, cross-validated.

Shapes: N images, K groups (classes or splits), B bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of

FOLDS = 5
FEWEST = 10
"""Groups of fewer images are not judged."""

_PRIOR = 0.5
"""Added to each count of a bin (Jeffreys)."""


@dataclass(frozen=True)
class Told:
    """How well images are told apart, out of fold.

    Attributes:
        accuracy: the mean over the judged groups of the share told correctly; `chance` is what guessing gives.
        recall, false_alarms: of telling each group from all others, [K]; NaN where it is too small.
        sure: the lower end of the 95% interval of recall - false_alarms, [K], for all the comparisons made together.
    """

    accuracy: float
    chance: float
    recall: NDArray[np.float64]
    false_alarms: NDArray[np.float64]
    sure: NDArray[np.float64]

    @property
    def gain(self) -> NDArray[np.float64]:
        """Recall minus false alarms (Youden's J), [K]: 0 by chance, 1 if a group is told apart without error."""
        return np.asarray(self.recall - self.false_alarms)


def told(
    codes: Sequence[NDArray[np.int64]], groups: NDArray[np.int64], number: int, *, comparisons: int
) -> Told | None:
    """Predict the group of each image from the bins of some values.

    Args:
        codes: of each value, the bin of each image, [N]. groups: [N]. number: K.
        comparisons: how many attributes are examined; with K they widen the intervals (Bonferroni's bound, Dunn 1961).

    Returns:
        None if there are no two groups of enough images.
    """
    sizes_K = np.bincount(groups, minlength=number)
    judged_K = sizes_K >= FEWEST
    if judged_K.sum() < 2:
        return None
    counts = [np.zeros((number, int(code.max()) + 1)) for code in codes]
    for count, code in zip(counts, codes, strict=True):
        np.add.at(count, (groups, code), 1)
    fold_N = _folds(groups)
    right_K, hits_K, alarms_K = np.zeros(number), np.zeros(number), np.zeros(number)
    for fold in range(FOLDS):
        rows = np.flatnonzero(fold_N == fold)
        if not len(rows):
            continue
        own = groups[rows]
        against_rest, likelihood = _log_odds(counts, [code[rows] for code in codes], own)
        likelihood[:, ~judged_K] = -np.inf
        np.add.at(right_K, own, likelihood.argmax(1) == own)
        positive = against_rest > 0
        mine = positive[np.arange(len(rows)), own]
        np.add.at(hits_K, own, mine)
        alarms_K += positive.sum(0)
    alarms_K -= hits_K
    rest_K = len(groups) - sizes_K
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, alarms = hits_K / sizes_K, alarms_K / rest_K
    recall[~judged_K] = alarms[~judged_K] = np.nan
    z = NormalDist().inv_cdf(1 - 0.05 / (2 * max(1, comparisons * int(judged_K.sum()))))
    sure = recall - alarms - z * np.sqrt(_variance(hits_K, sizes_K) + _variance(alarms_K, rest_K))
    accuracy = float((right_K[judged_K] / sizes_K[judged_K]).mean())
    return Told(accuracy, 1 / int(judged_K.sum()), recall, alarms, sure)


def _log_odds(
    counts: Sequence[NDArray[np.float64]], codes: Sequence[NDArray[np.int64]], own: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the log odds of each group against the rest and its log likelihood, [n, K], of n images set aside."""
    shape = (len(own), len(counts[0]))
    odds, likelihood = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for count, code in zip(counts, codes, strict=True):
        seen_KB = count.copy()
        np.subtract.at(seen_KB, (own, code), 1)
        rest_KB = seen_KB.sum(0) - seen_KB
        of_group, of_rest = _log_shares(seen_KB), _log_shares(rest_KB)
        odds += (of_group - of_rest).T[code]
        likelihood += of_group.T[code]
    return odds, likelihood


def _log_shares(counts_KB: NDArray[np.float64]) -> NDArray[np.float32]:
    raised = counts_KB + _PRIOR
    return np.asarray(np.log(raised / raised.sum(1, keepdims=True)), np.float32)


def _folds(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fold of each image; every group is spread evenly over all of them."""
    fold = np.empty(len(groups), np.int64)
    order = np.random.default_rng(seed_of(len(groups), "folds of telling")).permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    fold[order] = np.arange(len(groups)) % FOLDS
    return fold


def _variance(count: NDArray[np.float64], total: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return that of a share, with two successes and two failures added (Agresti and Coull 1998)."""
    share = (count + 2) / (total + 4)
    return np.asarray(share * (1 - share) / (total + 4))


def best_rule(values: NDArray[np.float64], inside: NDArray[np.bool_]) -> tuple[bool, float, int, int] | None:
    """Return the threshold that best tells the images inside a group from the others.

    Returns:
        (whether those inside are above, the threshold, how many inside agree, how many others do); a missing value
        agrees with neither side. None if no threshold divides the values.
    """
    known = np.isfinite(values)
    order = np.argsort(values[known], kind="stable")
    sorted_values, sorted_inside = values[known][order], inside[known][order]
    ends = np.flatnonzero(np.diff(sorted_values) > 0)
    if not len(ends):
        return None
    below_inside, below_others = np.cumsum(sorted_inside)[ends], np.cumsum(~sorted_inside)[ends]
    all_inside, all_others = max(1, int(inside.sum())), max(1, int((~inside).sum()))
    known_inside, known_others = int(sorted_inside.sum()), int((~sorted_inside).sum())
    below = below_inside / all_inside - below_others / all_others
    above = (known_inside - below_inside) / all_inside - (known_others - below_others) / all_others
    is_above = bool(above.max() >= below.max())
    at = int((above if is_above else below).argmax())
    low, high = float(sorted_values[ends[at]]), float(sorted_values[ends[at] + 1])
    if is_above:
        return True, low, known_inside - int(below_inside[at]), known_others - int(below_others[at])
    assert math.isfinite(high)
    return False, high, int(below_inside[at]), int(below_others[at])
