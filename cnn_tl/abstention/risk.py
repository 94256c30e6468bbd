"""Selective classification: the confidence from which on answers are wrong at most as often as promised.

A threshold for `max_error` is found by fixed-sequence testing (Angelopoulos et al. 2021, "Learn then test", sec. 3)
along the ranks of n held-out images by confidence. What lies above the confidence of rank j + 1 are j independent
draws from there, so their errors are binomial, and P(Binomial(j, max_error) <= errors) is a p-value of "the error there
exceeds max_error". Ranks that depend on n alone are tested in turn, from few images to all; the first p-value above
1 - confidence_level ends it, and the rank before it is the answer. So a single test can break the promise: that of the
first rank below the confidence at which the error passes max_error.

All of this is exact for the answers of one model to images that had no part in it. Held-out answers by folds are of
several models, each fitted to fewer images than the final one: then the promise is an approximation. Of 200 to 400
trainings of the default head on 100, 300 and 1,000 images of three overlapping classes 7%, 5% and 7% broke a promise of
10%, and 3%, 5% and 5% with as many new images instead of held-out ones; the error of the former was 10.7% to 12.5%.

Measured on 1,000 held-out images of which 24% are wrong, for 5%: 31% are answered, with SGR's binary search (Geifman
and El-Yaniv 2017, "Selective classification for deep neural networks", sec. 3) 20%, and 46% if the error were known.

Shapes: n held-out images, N and M others.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.formatting import percent, share_as_typed

CONFIDENCE_LEVEL = 0.95
"""The probability that a promise is kept."""

FIRST_SHARE = 1 / 6
"""The first test is of about this share of the images, or of `images_needed` if that is more: with fewer, one mistake
would end the tests too often; with more, the error among them may already be too large."""


@dataclass(frozen=True)
class Promise:
    """What can be promised about the error among the answered images.

    Attributes:
        max_error, confidence_level: with this probability at most this share of answers is wrong.
        least: answers at least this confident may be given; 0: all. None: nothing can be promised.
        images: n, the held-out images behind it.
        needed: what n must be at least, even without any mistake.
        answered: the share of held-out images that are at least as confident; 0 without a promise.
        tested, wrong: how many these are, and how many of them are wrong. Without a promise, of the most confident
            images, where it failed; 0 if there are too few images.
    """

    max_error: float
    confidence_level: float
    least: float | None
    images: int
    needed: int
    answered: float
    tested: int
    wrong: int

    @property
    def too_few(self) -> bool:
        """Whether so few images could not support the promise even without any mistake."""
        return self.images < self.needed

    @property
    def text(self) -> str:
        """The promise, or why there is none, in one sentence without a full stop."""
        error, level = share_as_typed(self.max_error), share_as_typed(self.confidence_level)
        if self.too_few:
            return (
                f"at most {error} wrong cannot be promised: that needs at least {self.needed:,} held-out images, "
                f"there are {self.images:,}"
            )
        if self.least is None:
            return (
                f"no confidence is enough for at most {error} wrong: among the {self.tested:,} most confident of "
                f"{self.images:,} held-out images {self.wrong:,} {'is' if self.wrong == 1 else 'are'} wrong"
            )
        where = f"where the probability is at least {percent(self.least)}" if self.least else "at any probability"
        return (
            f"at most {error} of the answers are wrong, with {level} confidence, {where}: "
            f"{percent(self.answered)} of {self.images:,} held-out images, {self.wrong:,} wrong"
        )


def images_needed(max_error: float, confidence_level: float = CONFIDENCE_LEVEL) -> int:
    """Return how many held-out images a promise needs if none is wrong, 59 for 5%: (1 - max_error)^n <= 0.05.

    Raises:
        ValueError: one of the two is not between 0 and 1.
    """
    if not (0 < max_error < 1 and 0 < confidence_level < 1):
        raise ValueError(f"max_error {max_error}, confidence_level {confidence_level}")
    return math.ceil(math.log1p(-confidence_level) / math.log1p(-max_error))


def least_confidence(
    confidence_n: NDArray[np.floating[Any]],
    right_n: NDArray[np.bool_],
    max_error: float,
    confidence_level: float = CONFIDENCE_LEVEL,
) -> Promise:
    """Return from which confidence on at most `max_error` of the answers are wrong.

    The promise is about images like these. If some were left out here by a rule that ignores labels, such as those
    that are called unknown, it is about images that the rule leaves in.

    Raises:
        ValueError: max_error or confidence_level is not between 0 and 1.
    """
    needed = images_needed(max_error, confidence_level)
    images = len(confidence_n)
    if images < needed:
        return Promise(max_error, confidence_level, None, images, needed, 0.0, 0, 0)
    order_n = np.argsort(-confidence_n, kind="stable")
    sorted_n = confidence_n[order_n]
    errors_n = np.cumsum(~right_n[order_n])
    steps = _steps(images, max_error, confidence_level)
    ends = _ends_of_ties(sorted_n)
    tested = np.unique(ends[np.searchsorted(ends, _tested_ranks(images, steps))])
    failed = np.flatnonzero(errors_n[tested - 1] >= np.searchsorted(steps, tested, "right"))
    passed = tested[: failed[0]] if len(failed) else tested
    rank = int(passed[-1] if len(passed) else tested[0])
    wrong = int(errors_n[rank - 1])
    if not len(passed):
        return Promise(max_error, confidence_level, None, images, needed, 0.0, rank, wrong)
    least = 0.0 if rank == images else float(np.nextafter(sorted_n[rank], sorted_n.dtype.type(2)))
    return Promise(max_error, confidence_level, least, images, needed, rank / images, rank, wrong)


def _tested_ranks(images: int, steps: list[int]) -> NDArray[np.int64]:
    """Return the ranks to test, ascending: from the step before `FIRST_SHARE` of the images on, and all images.

    One mistake more is allowed at each step, so a mistake shortly before the next would end the tests for nothing:
    only the first half of the ranks from step to step is tested.
    """
    first = max(bisect_right(steps, images * FIRST_SHARE) - 1, 0)
    bounds = [*steps[first:], images + 1]
    halves = [np.arange(start, start + (end - start + 1) // 2) for start, end in pairwise(bounds)]
    return np.append(np.concatenate(halves), images)


def _steps(images: int, max_error: float, confidence_level: float) -> list[int]:
    """Return the least ranks at which 0, 1, 2, ... mistakes are allowed, as their p-value is small enough.

    One image more takes max_error * P(= mistakes) from the tail, and one mistake more adds its chance to it, so all
    steps take a walk over the ranks and not a sum at each.
    """
    steps: list[int] = []
    tail = 1 - max_error
    for rank in range(1, images + 1):  # tail: P(Binomial(rank, max_error) <= len(steps))
        if tail <= 1 - confidence_level:
            steps.append(rank)
            tail += _chance(len(steps), rank, max_error)
        tail -= max_error * _chance(len(steps), rank, max_error)
    return steps


def _chance(mistakes: int, images: int, error: float) -> float:
    """Return P(Binomial(images, error) = mistakes)."""
    if mistakes > images:
        return 0.0
    ways = math.lgamma(images + 1) - math.lgamma(mistakes + 1) - math.lgamma(images - mistakes + 1)
    return math.exp(ways + mistakes * math.log(error) + (images - mistakes) * math.log1p(-error))


def _ends_of_ties(sorted_n: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the ranks, from 1, after which the confidence falls: no threshold lies between equal ones."""
    return np.flatnonzero(np.append(sorted_n[1:] != sorted_n[:-1], True)) + 1


@dataclass(frozen=True)
class RiskCoverage:
    """The error among the most confident answers, as fewer and fewer are given (El-Yaniv and Wiener 2010).

    Attributes:
        coverage: the shares of images answered, 1/N..1, [N].
        risk: the error among these, [N]; images of equal confidence are in random order, so this is the expected one.
        aurc: the mean risk over all coverages (Geifman, Uziel and El-Yaniv 2018), the lower the better.
        least_aurc: what it would be if every wrong answer were less confident than every right one.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    aurc: float
    least_aurc: float

    @property
    def excess_aurc(self) -> float:
        """How far the order of the confidences is from the best one, whatever the accuracy: E-AURC, 0 is best."""
        return self.aurc - self.least_aurc

    def risk_at(self, coverage: float) -> float:
        """Return the error among the most confident images, of which there are at least this share."""
        rank = min(len(self.risk), max(1, math.ceil(coverage * len(self.risk) - 1e-9)))
        return float(self.risk[rank - 1])


def risk_coverage(confidence_N: NDArray[np.floating[Any]], right_N: NDArray[np.bool_]) -> RiskCoverage:
    """Return the error by coverage, where the most confident images are answered first.

    Raises:
        ValueError: there are no images.
    """
    if not len(confidence_N):
        raise ValueError("no images")
    order_N = np.argsort(-confidence_N, kind="stable")
    ends = _ends_of_ties(confidence_N[order_N])
    sizes = np.diff(ends, prepend=0)
    errors = np.diff(np.cumsum(~right_N[order_N])[ends - 1], prepend=0)
    risk_N = _running_mean(np.repeat(errors / sizes, sizes))
    best_N = _running_mean(np.sort(~right_N).astype(np.float64))
    total = len(right_N)
    return RiskCoverage(np.arange(1, total + 1) / total, risk_N, float(risk_N.mean()), float(best_N.mean()))


def _running_mean(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    means_N: NDArray[np.float64] = np.cumsum(values_N) / np.arange(1, len(values_N) + 1)
    return means_N


def auroc(known_N: NDArray[np.floating[Any]], unknown_M: NDArray[np.floating[Any]]) -> float:
    """Return the probability that an unknown image has the larger value, where equal ones count half.

    That is the area under the ROC curve, from the mid-ranks (Mann and Whitney 1947).

    Raises:
        ValueError: one of the two is empty.
    """
    if not (len(known_N) and len(unknown_M)):
        raise ValueError(f"{len(known_N)} known and {len(unknown_M)} unknown images")
    sorted_N = np.sort(known_N)
    below_M = np.searchsorted(sorted_N, unknown_M, "left")
    up_to_M = np.searchsorted(sorted_N, unknown_M, "right")
    return float((below_M + up_to_M).mean() / (2 * len(known_N)))
