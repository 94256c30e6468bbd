"""How much is measured: eight sizes and ten draws where that takes a minute or two, and less of large data sets."""

from __future__ import annotations

from dataclasses import dataclass

from cnn_tl.advising.learning_curve.subsets import LEAST, SIZES, sizes_up_to
from cnn_tl.core.cpu import usable
from cnn_tl.heads.auto import choose, lbfgs_seconds, ridge_seconds

DRAWS, FEWER_DRAWS, FEWER_SIZES = 10, 5, 5

MAX_SECONDS = 100.0
"""The expected time on all cores that the fits may take. The estimates are of one core, and about twice too high."""


@dataclass(frozen=True)
class Extent:
    """What is measured.

    Attributes:
        draws: how many times the images are divided into those to fit and those to judge.
        sizes: images to fit, ascending.
    """

    draws: int
    sizes: list[int]


def extent_of(images: int, training: int, num_features: int, num_classes: int) -> Extent:
    """Return what can be afforded.

    Args:
        images: all, of which each draw holds out a part.
        training: those that `train` would fit, up to which the curve is to be measured.
    """
    allowed = MAX_SECONDS * usable()
    least = LEAST * num_classes
    for draws, count in ((DRAWS, SIZES), (FEWER_DRAWS, SIZES), (FEWER_DRAWS, FEWER_SIZES)):
        most = max(2, min(training, images * (draws - 1) // draws))
        extent = Extent(draws, sizes_up_to(most, num_classes, count))
        if _seconds(extent, num_features, num_classes) <= allowed:
            return extent
    while most > 2 * least and _seconds(extent, num_features, num_classes) > allowed:
        most = max(round(most * 0.9), 2 * least)
        extent = Extent(FEWER_DRAWS, sizes_up_to(most, num_classes, SIZES))
    return extent


def _seconds(extent: Extent, num_features: int, num_classes: int) -> float:
    return extent.draws * sum(_fit_seconds(size, num_features, num_classes) for size in extent.sizes)


def _fit_seconds(size: int, num_features: int, num_classes: int) -> float:
    seconds = ridge_seconds(size, 1, num_features, num_classes)
    if choose(size, 1, num_features, num_classes).kind != "ridge":
        seconds += lbfgs_seconds(size, 1, num_features, num_classes)
    return seconds
