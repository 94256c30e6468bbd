"""The accuracy with more images than there are: several families of curves, averaged, with an honest interval.

Three things make the figure uncertain, and all three are drawn from: which images were judged and fitted; which family
is the right one; and that no family is, which shows where earlier sizes foretell later ones wrongly.

Shapes: N images, S sizes, T targets, B drawn curves, F families.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.advising.learning_curve.families import FAMILIES, PRIOR, Fitted
from cnn_tl.core.seeds import seed_of

Values = NDArray[np.float64]

DRAWN = 400
"""Curves."""

LEAST_SIZES = 3
"""Below this many sizes nothing is extrapolated."""

PER_DOUBLING = 0.004
"""The error that a curve of few parameters makes at sizes half as large as the largest, as a share of all images: fits
trust small sizes less, as what is to be foretold is far from them."""

WRONG, WRONG_RELATIVE, WORTH = 0.003, 0.04, 2.0
"""The expected deviation from the average of all families for each doubling, before any back-test: a share of all
images, plus a share of the error; and how many back-tests it counts for."""


@dataclass(frozen=True)
class Noisy:
    """Measured errors.

    Attributes:
        sizes: images, [S], ascending.
        errors: shares of wrong answers, [S].
        covariance: of the errors, over the choice of images to judge and to fit, [S, S].
        judged: how many images the errors are shares of.
    """

    sizes: Values
    errors: Values
    covariance: Values
    judged: int

    def first(self, count: int) -> Noisy:
        """Return only the smallest sizes."""
        return Noisy(self.sizes[:count], self.errors[:count], self.covariance[:count, :count], self.judged)


@dataclass(frozen=True)
class Foretold:
    """The accuracy at some numbers of images.

    Attributes:
        targets: images, [T].
        accuracy: [T]. drawn: [B, T], of which the intervals are quantiles.
        weights: family -> its weight.
    """

    targets: Values
    accuracy: Values
    drawn: Values
    weights: dict[str, float]

    def interval(self, target: int) -> tuple[float, float]:
        """Return the 95% interval at the target of this index."""
        low, high = np.quantile(self.drawn[:, target], (0.025, 0.975))
        return float(low), float(high)


def noisy(right_NS: NDArray[np.bool_], draw_N: NDArray[np.int64], sizes_S: Values) -> Noisy:
    """Return the mean errors, and how uncertain they are.

    The images give the covariance of the sizes, which is large: they are judged at all sizes. Where draws differ by
    more than their images explain, the choice of the images to fit adds the rest. As of a binomial share, one right and
    one wrong image are added, so that none is certain (Agresti and Coull 1998).
    """
    wrong_NS = 1.0 - right_NS
    draws = np.unique(draw_N)
    added = np.concatenate([wrong_NS, np.zeros((1, wrong_NS.shape[1])), np.ones((1, wrong_NS.shape[1]))])
    covariance_SS = np.atleast_2d(np.cov(added.T, bias=True)) / len(added)
    means_DS = np.stack([wrong_NS[draw_N == draw].mean(0) for draw in draws])
    between_S = np.square(means_DS - wrong_NS.mean(0)).sum(0) / max(len(draws) - 1, 1)
    extra_S = np.maximum(between_S / len(draws) - np.diag(covariance_SS), 0)
    if len(extra_S) >= LEAST_SIZES:  # few draws tell little about each size alone
        places_S = np.arange(len(extra_S))
        line_S = np.polyval(np.polyfit(places_S, np.sqrt(extra_S), 1), places_S)
        extra_S = np.square(np.maximum(line_S, 0))
    return Noisy(sizes_S.astype(np.float64), wrong_NS.mean(0), covariance_SS + np.diag(extra_S), len(wrong_NS))


def foretell(measured: Noisy, targets: Sequence[float], seed: int) -> Foretold:
    """Extrapolate to some numbers of images.

    Each curve is shifted so that it passes through the largest size: what was measured there beats any fit.
    """
    targets_T = np.array(targets, np.float64)
    drawn_BS = np.concatenate([measured.errors[None], _drawn(measured, seed)])
    weights_F, wrong = _judged(measured)
    fits = _fits(measured, drawn_BS, np.append(targets_T, measured.sizes[-1]))
    at_FBT = np.stack([fit.at for fit in fits])
    missed_FB = drawn_BS[:, -1] - at_FBT[:, :, -1]  # of the largest size
    at_FBT = np.clip(at_FBT[:, :, :-1] + missed_FB[:, :, None], 0, 1)
    chance = np.random.default_rng(seed_of(seed, "foretell"))
    which_B = chance.choice(len(fits), len(drawn_BS) - 1, p=weights_F)
    drawn_BT = at_FBT[which_B, np.arange(1, len(drawn_BS))]
    doublings_T = np.maximum(np.log2(targets_T / measured.sizes[-1]), 0)
    drawn_BT = drawn_BT + chance.standard_normal((len(drawn_BT), 1)) * (wrong * doublings_T)
    drawn_BT = np.minimum(drawn_BT, np.maximum(at_FBT[which_B, np.arange(1, len(drawn_BS)), :1], 0))
    return Foretold(
        targets_T,
        1 - np.clip(weights_F @ at_FBT[:, 0], 0, 1),
        1 - np.clip(drawn_BT, 0, 1),
        dict(zip(FAMILIES, weights_F.tolist(), strict=True)),
    )


def _drawn(measured: Noisy, seed: int) -> Values:
    """Return curves as other images could have given them, [B, S].

    They lie around errors with the same two images added: where none is wrong, others could be.
    """
    values, vectors = np.linalg.eigh(measured.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    chance = np.random.default_rng(seed_of(seed, "curves"))
    noise_BS = chance.standard_normal((DRAWN // 2, len(measured.sizes))) @ root.T
    middle_S = (measured.errors * measured.judged + 1) / (measured.judged + 2)
    made: Values = np.clip(middle_S + np.concatenate([noise_BS, -noise_BS]), 0, 1)
    return made


def _weights(measured: Noisy) -> Values:
    doublings_S = np.log2(measured.sizes[-1] / measured.sizes)
    made: Values = 1 / (np.diag(measured.covariance) + np.square(PER_DOUBLING * doublings_S) + 1e-12)
    return made


def _fits(measured: Noisy, errors_BS: Values, targets_T: Values) -> list[Fitted]:
    weights_S = _weights(measured)
    return [fit(measured.sizes, targets_T, errors_BS, weights_S) for fit in FAMILIES.values()]


def _judged(measured: Noisy) -> tuple[Values, float]:
    """Return the weights of the families [F], and the deviation from their average for each doubling.

    A weight follows from a prior, from how well a family fits, and from how well it foretells each later size from
    those of at most half of it.
    """
    fits = _fits(measured, measured.errors[None], measured.sizes[-1:])
    scores_F = np.array([fit.misfit[0] for fit in fits]) - 2 * np.log(list(PRIOR.values()))
    expected = WRONG + WRONG_RELATIVE * float(measured.errors[-1])
    tests = _back_tests(measured)
    for _, deviations_F, noise, doublings in tests:
        scores_F = scores_F + np.square(deviations_F) / (noise + (expected * doublings) ** 2) / len(tests)
    weights_F = np.exp(-(scores_F - scores_F.min()) / 2)
    weights_F /= weights_F.sum()
    squares = WORTH * expected**2
    for _, deviations_F, noise, doublings in tests:
        squares += max(float(weights_F @ deviations_F) ** 2 - noise, 0.0) / doublings**2 / len(tests) * 2
    return weights_F, float(np.sqrt(squares / (WORTH + (2 if tests else 0))))


def _back_tests(measured: Noisy) -> list[tuple[int, Values, float, float]]:
    """Return for sizes foretold from the earlier ones of at most half of it: deviations [F], noise, doublings."""
    found = []
    for place in range(len(measured.sizes)):
        earlier = int((measured.sizes <= measured.sizes[place] / 1.9).sum())
        if earlier < LEAST_SIZES:
            continue
        part = measured.first(earlier)
        fits = _fits(part, part.errors[None], measured.sizes[place : place + 1])
        deviations_F = np.array([fit.at[0, 0] for fit in fits]) - measured.errors[place]
        ends = [place, earlier - 1]
        c = measured.covariance[np.ix_(ends, ends)]
        noise = float(c[0, 0] + c[1, 1] - 2 * c[0, 1])
        found.append((place, deviations_F, noise, float(np.log2(measured.sizes[place] / part.sizes[-1]))))
    return found
