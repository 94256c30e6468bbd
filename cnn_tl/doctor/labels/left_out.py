"""Ridge regression without the image that it judges, for any targets.

One eigendecomposition serves all penalties and all targets. So a doctor can take wrong labels out of the fit and judge
again, which a head, that is fitted once, need not. Nothing of the size of the features is held in float64.

Shapes: N images, D features, K classes, S the rank, P penalties, n some images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cnn_tl.doctor.labels.units import Indices, Units
from cnn_tl.heads.arrays import HostArrays
from cnn_tl.heads.calibration import best_factor
from cnn_tl.heads.problem import require_finite

PENALTIES: list[float] = [10.0 ** (half / 2) for half in range(-4, 5)]
"""In units of the mean variance of a direction, as those of `heads/ridge.py`."""

ROWS = 1_024
"""Images of a block."""

AT_ONCE = 8
"""Blocks whose products are held at once."""

JUDGED = 10_000
"""The penalty is chosen on about this many images at most."""

Features = NDArray[np.float32]
Scores = NDArray[np.float64]


def rooted(features_ND: Features) -> Features:
    """Return the signed square roots of features, minus their means, float32 [N, D].

    Pooled activations have long tails, and a few large ones would outvote the rest (Perronnin et al. 2010, sec. 3.2).
    On CIFAR-10N and on planted flips in four other sets it raised the average precision of the ranking by about 0.01;
    dividing by the standard deviation, or the root of it, as heads do, then gains nothing.

    Raises:
        DivergedError: the features are not finite.
    """
    require_finite(features_ND)
    made_ND = np.abs(features_ND, dtype=np.float32)
    np.sqrt(made_ND, out=made_ND)
    np.copysign(made_ND, features_ND, out=made_ND)
    made_ND -= made_ND.mean(0, dtype=np.float64).astype(np.float32)
    return made_ND


class LeftOutRidge:
    """Scores of images, each by a ridge regression without its unit (Golub, Heath and Wahba 1979, sec. 1).

    The share of the unit in the mean of the targets is left out too. In a set of a few hundred images with a strong
    penalty it would be enough to hide that a label is wrong.
    """

    def __init__(self, arrays: HostArrays, features_ND: Features, units: Units) -> None:
        """Take features as `rooted` makes them."""
        self._arrays, self._features, self._units = arrays, features_ND, units
        self._values_S, self._axes_DS = self._decomposed()
        self._unit = float(self._values_S.sum()) / max(features_ND.shape[1], 1)

    def coordinates(self, most: int) -> Features:
        """Return the features along their first principal axes, at most so many, [N, S]."""
        axes = np.ascontiguousarray(self._axes_DS[:, ::-1][:, :most])
        return np.concatenate(self._arrays.map(lambda rows: rows @ axes, list(self._blocks(self._features))))

    def best_penalty(self, targets_NK: Features, labels_N: Indices, seed: int) -> float:
        """Return the penalty with the highest likelihood of labels of left-out images, calibrated by one factor."""
        images = self._units.sample(JUDGED, seed)
        labels_n = labels_N[images]
        weights_n = np.ones(len(images))
        likelihoods = [
            best_factor(scores_nK, labels_n, weights_n)[1] for scores_nK in self._scores(targets_NK, PENALTIES, images)
        ]
        return PENALTIES[int(np.argmax(likelihoods))]

    def scores(self, targets_NK: Features, penalty: float) -> Scores:
        """Return the score of each class for each image by the fit without its unit, [N, K]."""
        return next(self._scores(targets_NK, [penalty], None))

    def _scores(self, targets_NK: Features, penalties: Sequence[float], images: Indices | None) -> Iterator[Scores]:
        """Yield the scores [n, K] of some images, or all, with each penalty."""
        mean_K = targets_NK.mean(0, dtype=np.float64)
        features_nD = self._features if images is None else self._features[images]
        targets_nK = targets_NK if images is None else targets_NK[images]
        products_SK = self._axes_DS.T @ self._products(targets_NK - mean_K.astype(np.float32))
        shrink_SP = np.stack([1 / (self._values_S + penalty * self._unit) for penalty in penalties], 1)
        hats_nP = self._hats(features_nD, shrink_SP.astype(np.float32))
        shared = self._shared(features_nD, images)
        if len(penalties) > 1:
            shared = list(shared)
        for index in range(len(penalties)):
            weights_DK = (self._axes_DS @ (products_SK * shrink_SP[:, index, None])).astype(np.float32)
            residual_nK = targets_nK - (self._times(features_nD, weights_DK) + mean_K)
            wrong_nK = residual_nK / np.maximum(1 - hats_nP[:, index, None], 1e-6)
            for members_um, coordinates_umS in shared:
                root_S = np.sqrt(np.append(shrink_SP[:, index], 1)).astype(np.float32)
                wrong_nK[members_um] = _without(coordinates_umS * root_S, residual_nK[members_um])
            yield targets_nK - wrong_nK

    def _shared(self, features_nD: Features, images: Indices | None) -> Iterable[tuple[Indices, Features]]:
        """Yield some units of one size at once: images [u, m] among the n, and their coordinates, [u, m, S + 1].

        The last coordinate is that of the mean.
        """
        by_size: dict[int, list[Indices]] = defaultdict(list)
        for part in self._units.shared(images):
            by_size[len(part)].append(part)
        for size, parts in by_size.items():
            at_once = max(1, ROWS // size)
            for start in range(0, len(parts), at_once):
                members_um = np.stack(parts[start : start + at_once])
                coordinates_umS = features_nD[members_um] @ self._axes_DS
                share = np.full((*members_um.shape, 1), len(self._features) ** -0.5, np.float32)
                yield members_um, np.concatenate([coordinates_umS, share], 2)

    def _decomposed(self) -> tuple[Scores, Features]:
        """Return the eigenvalues [S], ascending, and axes [D, S] of the scatter, from the smaller Gram matrix."""
        rows_ND = self._features
        if len(rows_ND) <= rows_ND.shape[1]:
            values, vectors = np.linalg.eigh((rows_ND @ rows_ND.T).astype(np.float64))
        else:
            values, vectors = np.linalg.eigh(self._products(rows_ND))
        kept = values > values.max(initial=0.0) * 1e-7
        values_S, vectors = values[kept], vectors[:, kept].astype(np.float32)
        if len(rows_ND) <= rows_ND.shape[1]:
            vectors = rows_ND.T @ (vectors / np.sqrt(values_S).astype(np.float32))
        return values_S, np.ascontiguousarray(vectors)

    def _blocks(self, rows_nX: Features) -> Iterator[Features]:
        return (rows_nX[start : start + ROWS] for start in range(0, len(rows_nX), ROWS))

    def _products(self, other_NX: Features) -> Scores:
        """Return features.T @ other, [D, X], summed over blocks in float64."""
        pairs = list(zip(self._blocks(self._features), self._blocks(other_NX), strict=True))
        total = np.zeros((self._features.shape[1], other_NX.shape[1]))
        for start in range(0, len(pairs), AT_ONCE):
            for part in self._arrays.map(lambda pair: pair[0].T @ pair[1], pairs[start : start + AT_ONCE]):
                total += part
        return total

    def _times(self, features_nD: Features, weights_DK: Features) -> Scores:
        parts = self._arrays.map(lambda rows: rows @ weights_DK, list(self._blocks(features_nD)))
        return np.concatenate(parts, dtype=np.float64)

    def _hats(self, features_nD: Features, shrink_SP: Features) -> Scores:
        """Return how much the score of each image hangs on its own target, [n, P]."""
        parts = self._arrays.map(
            lambda rows: np.square(rows @ self._axes_DS) @ shrink_SP, list(self._blocks(features_nD))
        )
        return np.concatenate(parts, dtype=np.float64) + 1 / len(self._features)


def _without(scaled_umS: Features, residual_umK: Scores) -> Scores:
    """Return the residuals of the images of units by the fits without the whole unit, [u, m, K].

    They are (1 - A A^T)^-1 R, or R + A (1 - A^T A)^-1 A^T R where a unit has more images than coordinates.

    Args:
        scaled_umS: A, whose A A^T is the hat matrix.
    """
    images, width = scaled_umS.shape[1:]
    across_uSm = np.swapaxes(scaled_umS, 1, 2)
    if images <= width:
        return np.asarray(np.linalg.solve(_complement(scaled_umS @ across_uSm), residual_umK), np.float64)
    inside_uSK = np.linalg.solve(_complement(across_uSm @ scaled_umS), across_uSm @ residual_umK)
    return residual_umK + scaled_umS @ inside_uSK


def _complement(hats: Features) -> Scores:
    """Return 1 - hat, slightly larger, so that a unit of all images has a solution."""
    made: Scores = np.eye(hats.shape[-1]) * (1 + 1e-6) - hats
    return made
