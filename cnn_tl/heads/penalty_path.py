"""Fits of several folds over the same rows, along a path from strong to weak penalties.

They take place in the principal axes of the rows, which are uncorrelated: so the curvature along each is known.

Shapes as in problem.py; R rows, S the dimensions of a fit, F folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays
from cnn_tl.heads.cross_entropy import CrossEntropy
from cnn_tl.heads.lbfgs import History, minimise
from cnn_tl.heads.problem import Features, Problem

MAX_ITERATIONS = 500
MEMORY = 20
"""Past steps that L-BFGS keeps, if memory allows."""

WORKSPACE = 48 * 2**20
"""Bytes for the past steps of L-BFGS, as long as at least a few fit."""

ROUGHLY = 1e-6
"""Of the objective, what the next step may promise where a fit ends."""

AHEAD = 0.7
"""The next penalty's fit starts this share of the last change of theta further on."""


@dataclass(frozen=True)
class Axes:
    """Orthonormal principal axes of some rows.

    Attributes:
        coordinates: of the rows, float64 [R, S], where the fit is computed.
        basis: the axes, float32 [S, D], likewise.
        squares: the mean square of each coordinate, [S], on the host.
    """

    coordinates: Array
    basis: Array
    squares: NDArray[np.float64]


def principal_axes(arrays: Arrays, features_RD: Features) -> Axes:
    """Return the rows in the orthonormal principal axes of their span, and the axes."""
    whole = arrays.cast(arrays.put(features_RD), arrays.double)
    wide = len(features_RD) < features_RD.shape[1]
    values, vectors = arrays.eigh(whole @ whole.T if wide else whole.T @ whole)
    kept = values > values[-1] * 1e-10
    values, vectors = values[kept], np.ascontiguousarray(vectors[:, kept])
    axes, scales = arrays.put(vectors), arrays.put(np.sqrt(values))
    coordinates_RS = axes * scales if wide else whole @ axes
    single = arrays.cast(axes / scales if wide else axes, arrays.single).T
    basis_SD = single @ arrays.cast(whole, arrays.single) if wide else single
    return Axes(coordinates_RS, basis_SD, values / len(features_RD))


def history_size(nbytes: int) -> int:
    """Return how many past steps of so many bytes to keep."""
    return max(3, min(WORKSPACE // (3 * nbytes), MEMORY))


class PenaltyPath:
    """Fits of some folds over the same rows, from strong to weak penalties: each starts where earlier ones lead."""

    def __init__(
        self,
        problem: Problem,
        arrays: Arrays,
        axes: Axes,
        labels_R: NDArray[np.int64],
        weights_FR: Features,
    ) -> None:
        """Take weights [F, R] that sum to 1 for each fold."""
        self.arrays, self.problem = arrays, problem
        features = arrays.cast(axes.coordinates, arrays.single)
        self.objective = CrossEntropy(arrays, features, labels_R, weights_FR, problem.num_classes)
        folds, num_classes, width = self.objective.shape
        self.squares_S = axes.squares
        self.theta = arrays.zeros((folds, num_classes * width), arrays.double)
        self.before: Array | None = None
        most = history_size(folds * num_classes * width * self.objective.features_RS.itemsize)
        self.history = History(arrays, folds, num_classes * width, most, self.objective.precision)

    def fit(self, penalty: float) -> int:
        """Fit with the next penalty; return the number of evaluations."""
        arrays, objective = self.arrays, self.objective
        start = self.theta if self.before is None else self.theta + AHEAD * (self.theta - self.before)
        change = penalty - objective.penalty
        objective.penalty = penalty
        uncertain_F = objective.uncertainty(start.reshape(objective.shape))
        inverse_FS = np.ones(objective.shape[::2])
        inverse_FS[:, :-1] = 1 / (uncertain_F[:, None] * self.squares_S + penalty)
        inverse_FS[:, -1] = 1 / uncertain_F
        whole = np.broadcast_to(inverse_FS[:, None], objective.shape).reshape(len(inverse_FS), -1)
        of_penalty = np.full(objective.shape[1:], change)
        of_penalty[:, -1] = 0
        inverse, added = arrays.put(whole), arrays.put(of_penalty.ravel())

        def apply(vectors: Array) -> Array:
            return vectors * arrays.cast(inverse if vectors.ndim == 2 else inverse[:, None], vectors.dtype)

        self.history.rebase(apply, lambda steps: steps * arrays.cast(added, steps.dtype))
        found = minimise(
            arrays, self._flat, apply, start, self.history,
            tolerance=ROUGHLY, most=MAX_ITERATIONS, check=self.problem.check,
        )  # fmt: skip
        self.before, self.theta = self.theta, found.x
        return found.evaluations

    def _flat(self, x: Array) -> tuple[Array, Array]:
        value, gradient = self.objective(x.reshape(self.objective.shape))
        return value, gradient.reshape(x.shape)

    def log_loss(self) -> NDArray[np.floating[Any]]:
        """Return the cross-entropy of each row in each fold, [F, R]."""
        return self.objective.log_loss(self.theta.reshape(self.objective.shape))

    def logits(self, fold: int, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        """Return the logits [n, K] of n rows by the fit of one fold, on the host."""
        objective = self.objective
        theta = self.arrays.cast(self.theta.reshape(objective.shape)[fold], objective.precision)
        return self.arrays.host(objective.features_RS[self.arrays.put(rows)] @ theta[:, :-1].T + theta[:, -1])

    def forget(self) -> None:
        """Free the memory of the past steps; no other fit is possible."""
        del self.history

    def mean_theta(self) -> Array:
        """Return the mean of the folds, [1, K, S + 1]."""
        return self.theta.reshape(self.objective.shape).mean(0)[None]

    def steps(self, newest: int) -> list[tuple[Array, Array]]:
        """Return the newest past steps of each fold and the differences of their gradients, [m, K, S + 1] each."""
        order = self.history.slots[-newest:]
        shape = (len(order), *self.objective.shape[1:])
        pairs = (self.history.s[:, order], self.history.y[:, order])
        return [(s.reshape(shape), y.reshape(shape)) for s, y in zip(*pairs, strict=True)]
