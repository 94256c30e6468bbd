"""The penalised cross-entropy of linear classifiers, and its gradient, for several folds over the same rows.

Shapes: R rows of S features, K classes, F folds. Theta is float64 [F, K, S + 1]: the weights and, in the last column,
the biases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays


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
        self._rows_R = arrays.put(np.arange(len(labels_R)))
        self._weights_FR = arrays.cast(arrays.put(weights_FR), self.precision)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of theta."""
        return self._weights_FR.shape[0], self.num_classes, self.features_RS.shape[1] + 1

    def __call__(self, theta: Array) -> tuple[Array, Array]:
        """Return the objective of each fold, float64 [F], and its gradient, [F, K, S + 1]."""
        xp, double = self.arrays.xp, self.arrays.double
        log_loss_FR, powers_FKR, others_FR, sums_FR = self._parts(theta)
        share_FR = self._weights_FR / sums_FR
        residual_FKR = powers_FKR
        residual_FKR *= share_FR[:, None]
        residual_FKR[:, self._labels_R, self._rows_R] = -others_FR * share_FR
        folds, num_classes, width = self.shape
        gradient = self.arrays.zeros(self.shape, double)
        products = residual_FKR.reshape(folds * num_classes, -1) @ self.features_RS
        gradient[..., :-1] = products.reshape(folds, num_classes, width - 1)
        gradient[..., :-1] += self.penalty * theta[..., :-1]
        gradient[..., -1] = xp.sum(residual_FKR, 2, dtype=double)
        loss_F = xp.sum(self._weights_FR * log_loss_FR, 1, dtype=double)
        return loss_F + self.penalty / 2 * xp.sum(theta[..., :-1] ** 2, (1, 2)), gradient

    def log_loss(self, theta: Array) -> NDArray[np.floating]:
        """Return the cross-entropy of each row in each fold, on the host, [F, R]."""
        return self.arrays.host(self._parts(theta)[0])

    def uncertainty(self, theta: Array) -> NDArray[np.float64]:
        """Return the mean of p * (1 - p) over rows and classes for each fold, on the host, [F].

        Times the mean square of a feature it is the mean curvature of the objective along the feature's weights.
        """
        xp = self.arrays.xp
        _, powers_FKR, others_FR, sums_FR = self._parts(theta)
        powers_FKR[:, self._labels_R, self._rows_R] = others_FR
        p_FKR = powers_FKR / sums_FR[:, None]
        mean_F = xp.sum(p_FKR * (1 - p_FKR), (1, 2), dtype=self.arrays.double) / (p_FKR.shape[1] * p_FKR.shape[2])
        return np.maximum(self.arrays.host(mean_F), 1e-6)  # type: ignore[no-any-return]

    def _parts(self, theta: Array) -> tuple[Array, Array, Array, Array]:
        """Return the cross-entropy [F, R], powers of the other classes [F, K, R], their sums, and those of all, [F, R].

        All are computed from the probabilities of the other classes, never as 1 - p of the label: for confident rows,
        which most are, p rounds to 1 in float32, and the fit would follow the rounding error.
        """
        xp, labels_R, rows_R = self.arrays.xp, self._labels_R, self._rows_R
        folds, num_classes, width = self.shape
        theta = self.arrays.cast(theta, self.precision)
        flat = theta[..., :-1].reshape(folds * num_classes, width - 1)
        logits_FKR = (flat @ self.features_RS.T).reshape(folds, num_classes, -1)
        logits_FKR += theta[..., -1:]
        logits_FKR -= xp.amax(logits_FKR, 1)[:, None]
        label_FR = logits_FKR[:, labels_R, rows_R]
        powers_FKR = xp.exp(logits_FKR, out=logits_FKR)
        power_FR = powers_FKR[:, labels_R, rows_R]
        powers_FKR[:, labels_R, rows_R] = 0
        others_FR = xp.sum(powers_FKR, 1)
        sums_FR = others_FR + power_FR
        log_loss_FR = xp.where(label_FR == 0, xp.log1p(others_FR), xp.log(sums_FR) - label_FR)
        return log_loss_FR, powers_FKR, others_FR, sums_FR
