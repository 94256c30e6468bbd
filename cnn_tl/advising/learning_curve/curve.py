"""The learning curve of some images: measured, checked against itself, and extrapolated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.advising.learning_curve.affordable import extent_of
from cnn_tl.advising.learning_curve.classes import ClassGain, class_gains
from cnn_tl.advising.learning_curve.extrapolate import LEAST_SIZES, Foretold, Noisy, foretell, noisy
from cnn_tl.advising.learning_curve.measure import Measured, fit_auto, measure
from cnn_tl.advising.learning_curve.subsets import distinct, draws_of
from cnn_tl.core.progress import Observer
from cnn_tl.core.statistics import wilson_interval
from cnn_tl.heads.problem import Features, Problem

Interval = tuple[float, float]
Indices = NDArray[np.int64]
Fit = Callable[[Problem], Callable[[Features], NDArray[np.floating[Any]]]]

TIMES = (2, 4)
"""How many times the training images accuracies are extrapolated to."""


LEAST_JUDGED = 20
"""Images below which no shape of a curve can be told from another."""


@dataclass(frozen=True)
class Point:
    """Accuracy after fits to so many images; interval: 95%, over the draws and the images."""

    images: int
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Outlook:
    """Accuracy with `times` as many images as there are for training.

    Attributes:
        gain: over the accuracy with all of today's. gain_interval: 95%.
    """

    times: int
    images: int
    accuracy: float
    interval: Interval
    gain: float
    gain_interval: Interval


@dataclass(frozen=True)
class Check:
    """What the sizes up to half foretold of the largest one, and what was measured there."""

    half: int
    images: int
    foretold: float
    interval: Interval
    came_to: float


@dataclass(frozen=True)
class Curve:
    """A learning curve.

    Attributes:
        classes: their names.
        images: all, of which each was judged by heads that had not seen it.
        training: those that `train` fits.
        judged: those that were judged; the others are alone in their class.
        draws: fits for each size.
        grouped: whether groups were held together.
        points: ascending.
        now: with all images for training; beyond the last point, extrapolated too.
        outlooks: none where nothing can be extrapolated.
        check: None where too few sizes lie below half.
        families: name -> weight in the extrapolation.
        gains: of each class, the largest first.
        baseline: accuracy of always answering the most frequent class.
    """

    classes: tuple[str, ...]
    images: int
    training: int
    judged: int
    draws: int
    grouped: bool
    points: tuple[Point, ...]
    now: Point
    outlooks: tuple[Outlook, ...]
    check: Check | None
    families: dict[str, float]
    gains: tuple[ClassGain, ...]
    baseline: float


def learn(
    features_ND: Features,
    labels_N: Indices,
    groups_N: Indices | None,
    classes: Sequence[str],
    training: int,
    seed: int,
    observer: Observer,
    *,
    fit: Fit = fit_auto,
) -> Curve:
    """Measure and extrapolate.

    Args:
        training: how many of the images `train` would fit.
        observer: receives the progress.

    Raises:
        DataError: there are too few images. DivergedError: a head is not finite.
    """
    extent = extent_of(len(labels_N), training, features_ND.shape[1], len(classes))
    draws = draws_of(labels_N, groups_N, extent.draws, seed)
    sizes = distinct(draws, extent.sizes)
    with observer.task("fits", sum(len(draw.subset(size)) for draw in draws for size in sizes)):
        measured = measure(features_ND, labels_N, groups_N, draws, sizes, fit, len(classes), seed, observer.advance)
    return curve_of(measured, classes, len(labels_N), training, seed, grouped=groups_N is not None)


def curve_of(
    measured: Measured, classes: Sequence[str], images: int, training: int, seed: int, *, grouped: bool = False
) -> Curve:
    """Return what follows from the answers of all fits."""
    right_NS, sizes_S = measured.right, measured.sizes
    errors = noisy(right_NS, measured.draw, sizes_S)
    points = tuple(_point(errors, place, len(right_NS)) for place in range(len(sizes_S)))
    half = int((sizes_S <= sizes_S[-1] * 0.55).sum())
    now, families, relative = points[-1], dict[str, float](), 0.0
    outlooks: tuple[Outlook, ...] = ()
    if len(sizes_S) >= LEAST_SIZES and len(right_NS) >= LEAST_JUDGED:
        found = foretell(errors, [training, *(times * training for times in TIMES)], seed)
        if training > sizes_S[-1] * 1.02:
            now = Point(training, float(found.accuracy[0]), found.interval(0))
        outlooks = tuple(_outlook(found, place, times, training) for place, times in enumerate(TIMES, 1))
        families = found.weights
        relative = outlooks[0].gain / max(1 - float(found.accuracy[0]), 1e-9)
    return Curve(
        classes=tuple(classes),
        images=images,
        training=training,
        judged=len(right_NS),
        draws=len(np.unique(measured.draw)),
        grouped=grouped,
        points=points,
        now=now,
        outlooks=outlooks,
        check=_check(errors, half, seed) if outlooks and half >= LEAST_SIZES else None,
        families=families,
        gains=tuple(class_gains(classes, measured.labels, right_NS[:, max(half - 1, 0)], right_NS[:, -1], relative)),
        baseline=float(np.bincount(measured.labels).max() / len(measured.labels)),
    )


def _point(errors: Noisy, place: int, judged: int) -> Point:
    """Return one measured point; its interval is Wilson's for as many images as would be as uncertain."""
    accuracy = 1 - float(errors.errors[place])
    smooth = (accuracy * judged + 1) / (judged + 2)
    worth = smooth * (1 - smooth) / float(errors.covariance[place, place])
    trials = max(1, min(judged, round(worth)))
    return Point(round(errors.sizes[place]), accuracy, _around(accuracy, trials))


def _around(share: float, trials: int) -> Interval:
    low, high = wilson_interval(round(share * trials), trials)
    shift = share - round(share * trials) / trials
    return max(0.0, min(low + shift, share)), min(1.0, max(high + shift, share))


def _outlook(found: Foretold, place: int, times: int, training: int) -> Outlook:
    gains_B = found.drawn[:, place] - found.drawn[:, 0]
    low, high = np.quantile(gains_B, (0.025, 0.975))
    return Outlook(
        times,
        times * training,
        float(found.accuracy[place]),
        found.interval(place),
        float(found.accuracy[place] - found.accuracy[0]),
        (float(low), float(high)),
    )


def _check(errors: Noisy, half: int, seed: int) -> Check:
    found = foretell(errors.first(half), [errors.sizes[-1]], seed)
    return Check(
        round(errors.sizes[half - 1]),
        round(errors.sizes[-1]),
        float(found.accuracy[0]),
        found.interval(0),
        1 - float(errors.errors[-1]),
    )
