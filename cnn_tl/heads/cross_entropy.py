"""The penalised cross-entropy of linear classifiers, and its gradient, for several folds over the same rows.

Shapes: R rows of S features, K classes, F folds. Theta is float64 [F, K, S + 1]: the weights and, in the last column,
the biases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays

ROWS = 512
"""Rows that a thread of the host takes at once: features that it has just read are still near when it needs them again.
The sums have the same bits for any number of threads."""

WORTH_THREADS = 2**25
"""Features x (folds x classes + 8) of all rows from which more than one thread shares them: about 2 ms of one."""

NUMBERS = 2**18
"""Of a gradient, how many a thread of the host sums at once."""


class CrossEntropy:
    """For each fold, the weighted mean cross-entropy + penalty / 2 * |W|^2; a bias is not penalised.

    Products are computed in the precision of the features, sums over rows in float64.

    Attributes:
        penalty: may be changed between two calls.
        weights_FR: of each row in each fold, [F, R].
    """

    def __init__(
        self,
        arrays: Arrays,
        features_RS: Array,
        labels_R: NDArray[np.int64],
        weights_FR: NDArray[np.floating],
        num_classes: int,
        penalty: float = 0.0,
    ) -> None:
        """Take the features where `arrays` computes; the weights of a fold sum to 1."""
        self.arrays = arrays
        self.features_RS = features_RS
        self.precision = features_RS.dtype
        self.num_classes, self.penalty = num_classes, penalty
        self._labels_R = arrays.put(labels_R)
        self._each_R = arrays.put(np.arange(len(labels_R)))
        self.weights_FR = arrays.cast(arrays.put(weights_FR), self.precision)
        at_once = ROWS if arrays.shares_rows else len(labels_R)
        self._blocks = [slice(start, start + at_once) for start in range(0, len(labels_R), at_once)]
        columns = len(weights_FR) * num_classes + 8
        self._shared = len(labels_R) * features_RS.shape[1] * columns >= WORTH_THREADS

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of theta."""
        return self.weights_FR.shape[0], self.num_classes, self.features_RS.shape[1] + 1

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        """Return the objective of each fold, float64 [F], and its gradient, [F, K, S + 1]."""
        xp, double = self.arrays.xp, self.arrays.double
        folds, num_classes, width = self.shape
        used = self._split(theta)

        def part(rows: slice) -> tuple[Array, Array, Array]:
            log_loss_FR, powers_FKR, others_FR, sums_FR = self._parts(*used, rows)
            weights_FR = self.weights_FR[:, rows]
            share_FR = weights_FR / sums_FR
            residual_FKR = powers_FKR
            residual_FKR *= share_FR[:, None]
            self._at_labels(residual_FKR, rows, -others_FR * share_FR)
            products = residual_FKR.reshape(folds * num_classes, -1) @ self.features_RS[rows]
            loss_F = xp.sum(weights_FR * log_loss_FR, 1, dtype=double)
            return loss_F, products, xp.sum(residual_FKR, 2, dtype=double).reshape(-1)

        losses_F, products, sums = zip(*self._over_rows(part), strict=True)
        flat, gradient = theta.reshape(folds * num_classes, width), xp.empty_like(theta)
        flat_gradient = gradient.reshape(flat.shape)

        def summed(classes: slice) -> Array:
            weights, ours = flat[classes, :-1], flat_gradient[classes]
            ours[:, :-1] = self.penalty * weights
            ours[:, -1] = 0
            for of_weights, of_biases in zip(products, sums, strict=True):
                ours[:, :-1] += of_weights[classes]
                ours[:, -1] += of_biases[classes]
            return self.arrays.dots(weights, weights)

        squares = xp.concatenate(self._over_classes(summed)).reshape(folds, num_classes)
        return sum(losses_F) + self.penalty / 2 * xp.sum(squares, 1), gradient

    def log_loss(self, theta: Array) -> NDArray[np.floating]:
        """Return the cross-entropy of each row in each fold, on the host, [F, R]."""
        used = self._split(theta)
        parts = self._over_rows(lambda rows: self._parts(*used, rows)[0])
        return np.concatenate([self.arrays.host(part) for part in parts], axis=1)

    def uncertainty(self, theta: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean of p * (1 - p) over rows and classes, [F], and that of each row's label, [F, R], on the host.

        Times the mean square of a feature, the mean is that of the curvature of the objective along its weights.
        """
        xp, used = self.arrays.xp, self._split(theta)

        def part(rows: slice) -> tuple[Array, Array]:
            _, powers_FKR, others_FR, sums_FR = self._parts(*used, rows)
            self._at_labels(powers_FKR, rows, others_FR)
            p_FKR = powers_FKR / sums_FR[:, None]
            wrong_FR = others_FR / sums_FR
            return xp.sum(p_FKR * (1 - p_FKR), (1, 2), dtype=self.arrays.double), wrong_FR * (1 - wrong_FR)

        totals_F, own_FR = zip(*self._over_rows(part), strict=True)
        mean_F = self.arrays.host(sum(totals_F)) / (len(self.features_RS) * self.num_classes)
        own = np.concatenate([self.arrays.host(part) for part in own_FR], axis=1, dtype=np.float64)
        return np.maximum(mean_F, 1e-6), own

    def _over_rows(self, part: Callable[[slice], Any]) -> list[Any]:
        """Return the results for all blocks of rows, in order."""
        return self.arrays.map(part, self._blocks) if self._shared else [part(rows) for rows in self._blocks]

    def _over_classes(self, part: Callable[[slice], Any]) -> list[Any]:
        """Return the results for all blocks of folds x classes, in order."""
        folds, num_classes, width = self.shape
        at_once = max(1, NUMBERS // width) if self.arrays.shares_rows else folds * num_classes
        blocks = [slice(start, start + at_once) for start in range(0, folds * num_classes, at_once)]
        return self.arrays.map(part, blocks) if len(blocks) > 1 else [part(blocks[0])]

    def _split(self, theta: Array) -> tuple[Array, Array]:
        """Return the weights [F * K, S] and the biases [F, K] in the precision of the features."""
        folds, num_classes, width = theta.shape
        weights = self.arrays.cast(theta[..., :-1], self.precision)
        return weights.reshape(folds * num_classes, width - 1), self.arrays.cast(theta[..., -1], self.precision)

    def _at_labels(self, values_FKR: Array, rows: slice, new_FR: Array | float) -> None:
        """Replace each row's value of its label."""
        labels_R = self._labels_R[rows]
        values_FKR[:, labels_R, self._each_R[: len(labels_R)]] = new_FR

    def _parts(self, weights: Array, bias_FK: Array, rows: slice) -> tuple[Array, Array, Array, Array]:
        """Return the cross-entropy [F, R], powers of the other classes [F, K, R], their sums, and those of all, [F, R].

        All are computed from the probabilities of the other classes, never as 1 - p of the label: for confident rows,
        which most are, p rounds to 1 in float32, and the fit would follow the rounding error.
        """
        xp, labels_R = self.arrays.xp, self._labels_R[rows]
        each_R = self._each_R[: len(labels_R)]
        logits_FKR = (weights @ self.features_RS[rows].T).reshape(*bias_FK.shape, -1)
        logits_FKR += bias_FK[..., None]
        logits_FKR -= xp.amax(logits_FKR, 1)[:, None]
        label_FR = logits_FKR[:, labels_R, each_R]
        powers_FKR = xp.exp(logits_FKR, out=logits_FKR)
        power_FR = powers_FKR[:, labels_R, each_R]
        self._at_labels(powers_FKR, rows, 0.0)
        others_FR = xp.sum(powers_FKR, 1)
        sums_FR = others_FR + power_FR
        log_loss_FR = xp.where(label_FR == 0, xp.log1p(others_FR), xp.log(sums_FR) - label_FR)
        return log_loss_FR, powers_FKR, others_FR, sums_FR
