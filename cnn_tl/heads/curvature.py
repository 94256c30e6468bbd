"""About the inverse Hessian of the cross-entropy in principal axes, which preconditions L-BFGS.

Shapes as in cross_entropy.py; n is the largest number of rows of a class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays
from cnn_tl.heads.cross_entropy import NUMBERS, CrossEntropy

OWN_ROWS = 10
"""Rows of a class up to which each class's own rows are treated exactly: then it costs little beside an evaluation."""


def inverse_hessian(
    arrays: Arrays, objective: CrossEntropy, theta: Array, squares_S: NDArray[np.float64]
) -> Callable[[Array], Array]:
    """Return a function that multiplies [F, P] or [F, m, P] by about the inverse Hessian at theta.

    It takes all rows as equally uncertain: along an axis, the curvature is the mean uncertainty times the mean square.

    Args:
        squares_S: the mean square of each coordinate of the rows.
    """
    uncertain_F, _ = objective.uncertainty(theta)
    inverse_FS = np.ones(objective.shape[::2])
    inverse_FS[:, :-1] = 1 / (uncertain_F[:, None] * squares_S + objective.penalty)
    inverse_FS[:, -1] = 1 / uncertain_F
    inverse = arrays.put(np.broadcast_to(inverse_FS[:, None], objective.shape).reshape(len(inverse_FS), -1))

    def apply(vectors: Array) -> Array:
        return vectors * arrays.cast(inverse if vectors.ndim == 2 else inverse[:, None], vectors.dtype)

    return apply


class OwnRows:
    """The same, but exact for the rows of a class itself, of which there are few.

    Of the curvature along the weights of a class, its own rows contribute as much as all others together, but in a few
    directions only. They are added by the formula of Sherman, Morrison and Woodbury (Golub and Van Loan, Matrix
    Computations, sec. 2.1.4). With two rows in each of 300 classes, L-BFGS with 4 past steps needed 284 evaluations
    instead of 450.
    """

    def __init__(self, arrays: Arrays, features_RS: Array, labels_R: NDArray[np.int64]) -> None:
        """Gather the rows of each class."""
        self.arrays = arrays
        order = np.argsort(labels_R, kind="stable")
        counts_K = np.bincount(labels_R)
        place_R = np.arange(len(order)) - np.repeat(np.cumsum(counts_K) - counts_K, counts_K)
        self._rows_Kn = np.zeros((len(counts_K), counts_K.max()), np.int64)
        self._rows_Kn[labels_R[order], place_R] = order
        self._filled_Kn = np.arange(counts_K.max()) < counts_K[:, None]
        self._features_KnS = features_RS[arrays.put(self._rows_Kn)]

    def inverse_hessian(
        self, objective: CrossEntropy, theta: Array, squares_S: NDArray[np.float64]
    ) -> Callable[[Array], Array]:
        """Return a function like that of `inverse_hessian`."""
        arrays, precision = self.arrays, self._features_KnS.dtype
        uncertain_F, own_FR = objective.uncertainty(theta)
        others_F1 = np.maximum(uncertain_F - own_FR.mean(1) / objective.num_classes, 1e-9)[:, None]
        weights_FR = arrays.host(objective.weights_FR)
        curved_FKn = (weights_FR * own_FR)[:, self._rows_Kn] * self._filled_Kn
        along_FS = arrays.cast(arrays.put(1 / (others_F1 * squares_S + objective.penalty)), precision)
        bias_F = arrays.put(1 / uncertain_F)
        inner = [self._inner(along_S, curved_Kn) for along_S, curved_Kn in zip(along_FS, curved_FKn, strict=True)]

        def apply(vectors: Array) -> Array:
            steps = vectors.reshape(len(vectors), -1, *objective.shape[1:])
            result = arrays.xp.empty_like(steps)

            def of_classes(classes: slice) -> None:
                rows_knS = self._features_KnS[classes]
                for fold, along_S in enumerate(along_FS):
                    for step, out in zip(steps[fold][:, classes], result[fold][:, classes], strict=True):
                        plain_kS = arrays.cast(step[:, :-1], precision) * along_S
                        across_kn1 = inner[fold][classes] @ (rows_knS @ plain_kS[..., None])
                        found = (arrays.xp.swapaxes(across_kn1, 1, 2) @ rows_knS)[:, 0]
                        out[:, :-1] = plain_kS - found * along_S
                        out[:, -1] = step[:, -1] * bias_F[fold]

            classes = steps.shape[2]
            at_once = max(1, NUMBERS // steps.shape[3]) if arrays.shares_rows else classes
            arrays.map(of_classes, [slice(start, start + at_once) for start in range(0, classes, at_once)])
            return result.reshape(vectors.shape)

        return apply

    def _inner(self, along_S: Array, curved_Kn: NDArray[np.float64]) -> Array:
        """Return C of the inverse B - B X^T C X B, where B is diagonal: (D^-1 + X B X^T)^-1, also if D has zeros."""
        rows_KnS = self._features_KnS
        gram_Knn = self.arrays.host((rows_KnS * along_S) @ self.arrays.xp.swapaxes(rows_KnS, 1, 2))
        root_Kn = np.sqrt(curved_Kn)
        roots_Knn = root_Kn[:, :, None] * root_Kn[:, None, :]
        inner_Knn = roots_Knn * np.linalg.inv(np.eye(root_Kn.shape[1]) + roots_Knn * gram_Knn)
        return self.arrays.cast(self.arrays.put(inner_Knn), rows_KnS.dtype)
