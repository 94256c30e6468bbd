"""How sure it is that two images are twins: a logistic regression on twins made of the user's own images.

Shapes: P pairs, X what is known of a pair, V made twins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

PRECISION = 0.95
"""Of the pairs that count as verified, as estimated."""
LEAST = 0.5
"""Probability of a verified pair, also where the mean would allow less."""
_PENALTY = 0.03
_ROUNDS = 20
_EVEN_ROUNDS = 10
"""Rounds before them in which half of the real pairs count as twins a priori."""
_LEAST_KEPT = 0.85
"""With more to leave out, made twins are simply like other pairs (digits), and all of them count."""
_SMALLEST_SPREAD = 0.02


def evidence(cosine: NDArray[np.float32], measures: NDArray[np.float32]) -> Doubles:
    """Return what is known of each pair, [P, 8], the higher the more alike.

    Fisher's z of the cosine and of three correlations, the correlation of colours, minus the distance of the mean
    colours, the overlap, and minus the distortion (`similarity.MEASURES`).
    """
    correlations = np.concatenate([cosine[:, None], measures[:, :3]], 1).astype(np.float64)
    z = np.arctanh(np.clip(correlations, -0.5, 0.98))
    signs = np.array([1, -1, 1, -1], np.float64)
    return np.concatenate([z, measures[:, 3:7] * signs], 1)


@dataclass(frozen=True)
class Logistic:
    """The log odds that a pair is a pair of twins, where half of the pairs are."""

    centre: Doubles
    spread: Doubles
    weights: Doubles
    bias: float

    def __call__(self, evidence_PX: Doubles) -> Doubles:
        """Return log odds [P]."""
        return np.asarray(((evidence_PX - self.centre) / self.spread) @ self.weights + self.bias)


UNCALIBRATED = Logistic(
    np.array([0.0, 1.6, 1.1, 1.2, 0.5, -0.05, 0.8, -0.2]),
    np.ones(8),
    np.array([0.0, 0.5, 3.0, 3.0, 1.0, 2.0, 1.0, 2.0]),
    -1.0,
)
"""For folders that are too small to calibrate: pixels only, weights as photographs gave them."""


def fit(twins_VX: Doubles, others_PX: Doubles, weights_P: Doubles) -> Logistic:
    """Fit a logistic regression with weights that are not negative, by Newton's method with a penalty.

    More likeness must never count against a twin: made twins can be less alike in some way than images of one kind,
    which says nothing about real ones. Directions that get a negative weight are left out, one after another.

    Args:
        weights_P: of the others, relative; all of them together count as much as the twins.
    """
    rows = np.concatenate([twins_VX, others_PX])
    target = np.concatenate([np.ones(len(twins_VX)), np.zeros(len(others_PX))])
    counts = np.concatenate([np.ones(len(twins_VX)), weights_P * len(twins_VX) / weights_P.sum()])
    centre, spread = rows.mean(0), rows.std(0)
    used = spread >= _SMALLEST_SPREAD
    spread = np.maximum(spread, _SMALLEST_SPREAD)
    rows = np.concatenate([(rows - centre) / spread, np.ones((len(rows), 1))], 1)
    while True:
        weights = _newton(rows, target, counts, np.append(used, True))
        wrong = weights[:-1] < 0
        if not wrong.any():
            return Logistic(centre, spread, weights[:-1], float(weights[-1]))
        used[np.argmin(weights[:-1])] = False


def _newton(rows: Doubles, target: Doubles, counts: Doubles, used: NDArray[np.bool_]) -> Doubles:
    rows = rows[:, used]
    penalty = np.full(rows.shape[1], _PENALTY)
    penalty[-1] = 1e-6
    weights = np.zeros(rows.shape[1])
    for _ in range(50):
        chance = probability(rows @ weights)
        gradient = rows.T @ (counts * (chance - target)) + penalty * weights
        curvature = (rows * (counts * chance * (1 - chance))[:, None]).T @ rows + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()) / 4)
        if np.abs(step).max() < 1e-8:
            break
    whole = np.zeros(len(used))
    whole[used] = weights
    return whole


def probability(log_odds: Doubles) -> Doubles:
    """Return 1 / (1 + exp(-log odds))."""
    return np.asarray(1 / (1 + np.exp(-np.clip(log_odds, -500, 500))))


@dataclass(frozen=True)
class Calibration:
    """From evidence to a probability.

    Attributes:
        logistic: fitted on made twins and on real pairs.
        offset: added to its log odds, for the share of twins among the real pairs.
    """

    logistic: Logistic
    offset: float

    def __call__(self, evidence_PX: Doubles) -> Doubles:
        """Return the probability of each pair, [P]."""
        return probability(self.logistic(evidence_PX) + self.offset)


def calibrate(twins_VX: Doubles, pairs_PX: Doubles) -> Calibration:
    """Learn to tell made twins from real pairs, a sample of all candidates.

    Made twins belong here only if they would have been candidates themselves: both sides must have passed the same
    selection, or the logistic learns the selection. Some of the real pairs are twins; each counts among the others as
    far as it isn't one (expectation maximisation with labelled twins only: Ward et al., Presence-only data and the EM
    algorithm, 2009, sec. 3). The share of twins is the one under which the probabilities of the real pairs have it as
    their mean (Saerens et al., Adjusting the outputs of a classifier to new a priori probabilities, 2002, eq. 4).
    The rounds begin from an even share, which takes all likely twins out of the others at first: from a share of zero
    on, the twins of a small folder stay among the others, and none is found. Without twins both ends are the same.
    Where a third of the real pairs or more are twins, as among frames of a video, the share can come out too low, and
    few pairs or none are verified; their order stays.
    """
    twins_VX = _recognisable(twins_VX, pairs_PX)
    chance = np.zeros(len(pairs_PX))
    for _ in range(_EVEN_ROUNDS):
        chance = probability(fit(twins_VX, pairs_PX, np.maximum(1 - chance, 1e-3))(pairs_PX))
    for _ in range(_ROUNDS):
        logistic = fit(twins_VX, pairs_PX, np.maximum(1 - chance, 1e-3))
        offset = _share(logistic(pairs_PX))
        before, chance = chance, probability(logistic(pairs_PX) + offset)
        if np.abs(chance - before).max() < 0.001:
            break
    return Calibration(logistic, offset)


def _recognisable(twins_VX: Doubles, pairs_PX: Doubles) -> Doubles:
    """Leave out made twins that neither gradients nor features tell from real pairs: a few would flatten the fit."""
    detail = twins_VX[:, 2] > np.quantile(pairs_PX[:, 2], 0.9)
    kept = detail | (twins_VX[:, 0] > np.quantile(pairs_PX[:, 0], 0.99))
    return twins_VX[kept] if kept.mean() >= _LEAST_KEPT else twins_VX


def _share(log_odds: Doubles) -> float:
    """Return the log odds of the share of twins, from the log ratio of the densities of twins and others, [P]."""
    share = 0.1
    for _ in range(1000):
        chance = probability(log_odds + np.log(share / (1 - share)))
        before, share = share, float(chance.sum() + 0.5) / (len(chance) + 1)
        if abs(share - before) < 1e-9:
            break
    return float(np.log(share / (1 - share)))


def threshold(probabilities_P: Doubles) -> tuple[float, float | None]:
    """Return the lowest probability, at least a half, above which the mean is at least PRECISION, and that mean.

    The mean of calibrated probabilities is the expected precision. Without such a pair: PRECISION and None.
    """
    ordered = np.sort(probabilities_P)[::-1]
    means = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    ordered = ordered[ordered >= LEAST]
    enough = np.flatnonzero(means[: len(ordered)] >= PRECISION)
    if not len(enough):
        return PRECISION, None
    last = int(enough[-1])
    return LEAST if last == len(ordered) - 1 else float(ordered[last]), float(means[last])
