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


class CrossEntropy:
    """For each fold, the weighted mean cross-entropy + penalty / 2 * |W|^2; a bias is not penalised.

    Products are computed in the precision of the features, sums over rows in float64.

    Attributes:
        penalty: may be changed between two calls.
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
        self._weights_FR = arrays.cast(arrays.put(weights_FR), self.precision)
        at_once = ROWS if arrays.shares_rows else len(labels_R)
        self._blocks = [slice(start, start + at_once) for start in range(0, len(labels_R), at_once)]
        columns = len(weights_FR) * num_classes + 8
        self._shared = len(labels_R) * features_RS.shape[1] * columns >= WORTH_THREADS

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of theta."""
        return self._weights_FR.shape[0], self.num_classes, self.features_RS.shape[1] + 1

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        """Return the objective of each fold, float64 [F], and its gradient, [F, K, S + 1]."""
        xp, double = self.arrays.xp, self.arrays.double
        folds, num_classes, width = self.shape
        used = self.arrays.cast(theta, self.precision)

        def part(rows: slice) -> tuple[Array, Array, Array]:
            log_loss_FR, powers_FKR, others_FR, sums_FR = self._parts(used, rows)
            weights_FR = self._weights_FR[:, rows]
            share_FR = weights_FR / sums_FR
            residual_FKR = powers_FKR
            residual_FKR *= share_FR[:, None]
            self._at_labels(residual_FKR, rows, -others_FR * share_FR)
            products = residual_FKR.reshape(folds * num_classes, -1) @ self.features_RS[rows]
            loss_F = xp.sum(weights_FR * log_loss_FR, 1, dtype=double)
            return loss_F, products, xp.sum(residual_FKR, 2, dtype=double)

        gradient = self.penalty * theta
        gradient[..., -1] = 0
        loss_F = self.penalty / 2 * xp.sum(theta[..., :-1] ** 2, (1, 2))
        for part_loss_F, products, sums_FK in self._over_rows(part):
            loss_F = loss_F + part_loss_F
            gradient[..., :-1] += products.reshape(folds, num_classes, width - 1)
            gradient[..., -1] += sums_FK
        return loss_F, gradient

    def log_loss(self, theta: Array) -> NDArray[np.floating]:
        """Return the cross-entropy of each row in each fold, on the host, [F, R]."""
        used = self.arrays.cast(theta, self.precision)
        parts = self._over_rows(lambda rows: self._parts(used, rows)[0])
        return np.concatenate([self.arrays.host(part) for part in parts], axis=1)

    def uncertainty(self, theta: Array) -> NDArray[np.float64]:
        """Return the mean of p * (1 - p) over rows and classes for each fold, on the host, [F].

        Times the mean square of a feature it is the mean curvature of the objective along the feature's weights.
        """
        used = self.arrays.cast(theta, self.precision)

        def part(rows: slice) -> Array:
            _, powers_FKR, others_FR, sums_FR = self._parts(used, rows)
            self._at_labels(powers_FKR, rows, others_FR)
            p_FKR = powers_FKR / sums_FR[:, None]
            return self.arrays.xp.sum(p_FKR * (1 - p_FKR), (1, 2), dtype=self.arrays.double)

        total_F = sum(self._over_rows(part))
        mean_F = self.arrays.host(total_F) / (len(self.features_RS) * self.num_classes)
        return np.maximum(mean_F, 1e-6)

    def _over_rows(self, part: Callable[[slice], Any]) -> list[Any]:
        """Return the results for all blocks of rows, in order."""
        return self.arrays.map(part, self._blocks) if self._shared else [part(rows) for rows in self._blocks]

    def _at_labels(self, values_FKR: Array, rows: slice, new_FR: Array | float) -> None:
        """Replace each row's value of its label."""
        labels_R = self._labels_R[rows]
        values_FKR[:, labels_R, self._each_R[: len(labels_R)]] = new_FR

    def _parts(self, theta: Array, rows: slice) -> tuple[Array, Array, Array, Array]:
        """Return the cross-entropy [F, R], powers of the other classes [F, K, R], their sums, and those of all, [F, R].

        All are computed from the probabilities of the other classes, never as 1 - p of the label: for confident rows,
        which most are, p rounds to 1 in float32, and the fit would follow the rounding error.
        """
        xp, labels_R = self.arrays.xp, self._labels_R[rows]
        each_R = self._each_R[: len(labels_R)]
        folds, num_classes, width = self.shape
        flat = theta[..., :-1].reshape(folds * num_classes, width - 1)
        logits_FKR = (flat @ self.features_RS[rows].T).reshape(folds, num_classes, -1)
        logits_FKR += theta[..., -1:]
        logits_FKR -= xp.amax(logits_FKR, 1)[:, None]
        label_FR = logits_FKR[:, labels_R, each_R]
        powers_FKR = xp.exp(logits_FKR, out=logits_FKR)
        power_FR = powers_FKR[:, labels_R, each_R]
        self._at_labels(powers_FKR, rows, 0.0)
        others_FR = xp.sum(powers_FKR, 1)
        sums_FR = others_FR + power_FR
        log_loss_FR = xp.where(label_FR == 0, xp.log1p(others_FR), xp.log(sums_FR) - label_FR)
        return log_loss_FR, powers_FKR, others_FR, sums_FR
