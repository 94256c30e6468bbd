"""Fits of several folds over the same rows, along a path from strong to weak penalties.

They take place in the principal axes of the rows, which are uncorrelated: so the curvature along each is known.

Shapes as in problem.py; R rows, S the dimensions of a fit, F folds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays
from cnn_tl.heads.cross_entropy import CrossEntropy
from cnn_tl.heads.curvature import OWN_ROWS, OwnRows, inverse_hessian
from cnn_tl.heads.lbfgs import History, minimise
from cnn_tl.heads.problem import Features, Problem

MAX_ITERATIONS = 500
MEMORY, LEAST_MEMORY = 20, 6
"""Past steps that L-BFGS keeps if memory allows, and at least."""

WORKSPACE = 48 * 2**20
"""Bytes for the past steps of L-BFGS, as long as the least fit."""

ROUGHLY, MORE_ROUGHLY = 1e-6, 1e-5
"""Of the objective, what the next step may promise where a fit ends; the latter for many classes of few rows. With 300
classes of two images it halves the evaluations and changes log losses by at most 0.001."""

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
    return max(LEAST_MEMORY, min(WORKSPACE // (3 * nbytes), MEMORY))


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
        few = most < MEMORY and np.bincount(labels_R).max() <= OWN_ROWS
        self._own_rows = OwnRows(arrays, features, labels_R) if few else None

    def fit(self, penalty: float) -> int:
        """Fit with the next penalty; return the number of evaluations."""
        arrays, objective = self.arrays, self.objective
        start = self.theta if self.before is None else self.theta + AHEAD * (self.theta - self.before)
        change = penalty - objective.penalty
        objective.penalty = penalty
        inverse = self.inverse_hessian(objective, start.reshape(objective.shape))
        of_penalty = np.full(objective.shape[1:], change)
        of_penalty[:, -1] = 0
        added = arrays.put(of_penalty.ravel())
        self.history.rebase(inverse, lambda steps: steps * arrays.cast(added, steps.dtype))
        found = minimise(
            arrays, self._flat, inverse, start, self.history,
            tolerance=ROUGHLY if self._own_rows is None else MORE_ROUGHLY,
            most=MAX_ITERATIONS, check=self.problem.check,
        )  # fmt: skip
        self.before, self.theta = self.theta, found.x
        return found.evaluations

    def inverse_hessian(self, objective: CrossEntropy, theta: Array) -> Callable[[Array], Array]:
        """Return a function that multiplies by about the inverse Hessian, for any weights of the same rows."""
        if self._own_rows is None:
            return inverse_hessian(self.arrays, objective, theta, self.squares_S)
        return self._own_rows.inverse_hessian(objective, theta, self.squares_S)

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
