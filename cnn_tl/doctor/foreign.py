"""Images far from those of their class, or of every class, by the distance of their features.

Shapes: N images, D features, K classes, R reference images of a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of
from cnn_tl.doctor.robust import FEWEST

Distances = NDArray[np.float32]

_NEAREST = 0.25
"""Share of a class whose mean distance counts: a handful of foreign images that resemble one another do not hide."""

_FEWEST_NEAREST = 10
_REFERENCES = 500
"""Reference images of a class, so that the work grows with N and not with its square."""

_CLASSES = 6
"""Each image is compared with its own class and with so many whose means are nearest."""

_ROWS = 1_024
_SMALLEST_SPREAD = 0.05
_SMALLEST_DISTANCE = 1e-4


@dataclass(frozen=True)
class Strangeness:
    """How strange each image is, in robust standard deviations; NaN where its class is too small to tell.

    Attributes:
        own: among the images of its class, [N].
        any: in the class where it is least strange, of its own and the nearest ones, [N].
        distance: its mean distance to the nearest quarter of its class, 0 to 2, [N].
    """

    own: NDArray[np.float64]
    any: NDArray[np.float64]
    distance: NDArray[np.float64]

    @property
    def score(self) -> NDArray[np.float64]:
        """The mean of both, being usual somewhere counting as 0: a foreign image is strange everywhere.

        One that is usual in another class must be twice as far from its own; wrong labels are found elsewhere.
        """
        return np.asarray((self.own + np.maximum(self.any, 0)) / 2)


def strangeness(features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int) -> Strangeness:
    """Compare the features [N, D] of each image with those of each class.

    The distance to a class is 1 minus the cosine, averaged over the nearest quarter of at most R of its images, never
    the image itself (k-nearest-neighbour distance; Ramaswamy et al. 2000, "Efficient algorithms for mining outliers
    from large data sets", sec. 2). A class is measured with its own spread, or the median class's if that is smaller.
    Features are replaced by their signed roots first, which keeps a few large ones from deciding.

    Planted images of other sets are ranked better this way than by the Mahalanobis distance, whose covariance a tight
    group of them bends towards itself.
    """
    count = len(labels)
    usable_N = np.isfinite(features).all(1)
    unit_ND = _unit(features)
    near_NJ = _nearest_classes(unit_ND, labels, num_classes)
    logs_NK = np.full((count, num_classes), np.nan, np.float32)
    standards: dict[int, tuple[float, float]] = {}
    for label in range(num_classes):
        members = np.flatnonzero((labels == label) & usable_N)
        if len(members) < FEWEST:
            continue
        random = np.random.default_rng(seed_of(label, "references of a class"))
        references = np.sort(random.permutation(members)[:_REFERENCES])
        rows = np.flatnonzero((labels == label) | (near_NJ == label).any(1))
        logs_NK[rows, label] = np.log(_distances(unit_ND, rows, references) + _SMALLEST_DISTANCE)
        own = logs_NK[members, label].astype(np.float64)
        standards[label] = float(np.median(own)), _spread(own)
    usual = float(np.median([spread for _, spread in standards.values()])) if standards else 1.0
    own_N = np.full(count, np.nan)
    any_N = np.full(count, np.inf)
    distance_N = np.full(count, np.nan)
    for label, (median, spread) in standards.items():
        far_N = (logs_NK[:, label] - median) / max(min(spread, usual), _SMALLEST_SPREAD)
        any_N = np.fmin(any_N, far_N)
        mine_N = labels == label
        own_N[mine_N] = far_N[mine_N]
        distance_N[mine_N] = np.exp(logs_NK[mine_N, label]) - _SMALLEST_DISTANCE
    for each in (own_N, any_N, distance_N):
        each[~usable_N] = np.nan
    return Strangeness(own_N, any_N, distance_N)


def _spread(logs: NDArray[np.float64]) -> float:
    """Return a robust standard deviation of a class's own distances; a tenth of them may be planted."""
    away = logs - np.median(logs)
    middle, upper = 1.4826 * np.median(np.abs(away)), np.quantile(away, 0.75) / 0.6745
    return float(max(middle, upper)) * (1 + 4 / len(logs))


def _unit(features: NDArray[np.float32]) -> Distances:
    unit_ND = np.empty(features.shape, np.float32)
    for start in range(0, len(features), _ROWS):
        block = np.nan_to_num(features[start : start + _ROWS], posinf=0, neginf=0)
        roots = np.sqrt(np.abs(block)) * np.sign(block)
        unit_ND[start : start + _ROWS] = roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-12)
    return unit_ND


def _nearest_classes(unit_ND: Distances, labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Return the classes whose mean features are nearest to each image, [N, J]."""
    means_KD = np.stack(
        [
            unit_ND[labels == label].mean(0) if (labels == label).any() else 0 * unit_ND[0]
            for label in range(num_classes)
        ]
    )
    means_KD /= np.maximum(np.linalg.norm(means_KD, axis=1, keepdims=True), 1e-12)
    count = min(_CLASSES, num_classes)
    found = np.empty((len(unit_ND), count), np.int64)
    for start in range(0, len(unit_ND), _ROWS):
        cosines = unit_ND[start : start + _ROWS] @ means_KD.T
        found[start : start + _ROWS] = np.argpartition(cosines, -count, axis=1)[:, -count:]
    return found


def _distances(unit_ND: Distances, rows: NDArray[np.int64], references: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean distance of some rows to the nearest quarter of the references, without the image itself."""
    nearest = max(1, min(len(references) - 1, max(_FEWEST_NEAREST, round(_NEAREST * len(references)))))
    column_of = np.full(len(unit_ND), -1)
    column_of[references] = np.arange(len(references))
    reference_DR = np.ascontiguousarray(unit_ND[references].T)
    found = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS]
        cosines = unit_ND[block] @ reference_DR
        columns = column_of[block]
        at = np.flatnonzero(columns >= 0)
        cosines[at, columns[at]] = -np.inf
        found[start : start + _ROWS] = 1 - np.partition(cosines, -nearest, axis=1)[:, -nearest:].mean(1)
    return np.maximum(found, 0)
