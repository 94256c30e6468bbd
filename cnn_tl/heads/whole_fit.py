"""The fit on all rows: from where the fits of a sample lead, preconditioned by the sample's principal axes.

Shapes as in problem.py; R rows, S the dimensions of a fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import SMALL, Array, Arrays
from cnn_tl.heads.cross_entropy import ROWS, CrossEntropy
from cnn_tl.heads.lbfgs import History, Inverse, minimise
from cnn_tl.heads.penalty_path import MAX_ITERATIONS, WORKSPACE, Axes, PenaltyPath, history_size
from cnn_tl.heads.problem import Features, Problem

EXACT = 2**24
"""Rows x features x classes up to which the fit on all rows ends in float64. In float32 L-BFGS stops where rounding
hides further progress, and the head depends on that rounding."""

WIDE = 150
"""Features per class up to which the products of all features take no longer than a few dozen evaluations."""

CLOSELY, IN_FLOAT32 = 1e-11, 1e-8
"""Of the objective, what the next step may promise where a fit ends, in float64 and in float32."""

CARRIED, MOST = 10, 60
"""Of each fold, the newest past steps with which the fit on all rows begins, and how many it keeps if memory allows."""


@dataclass(frozen=True)
class Rows:
    """Scaled features [R, D], labels [R], weights [R] of 1 on average."""

    features: Features
    labels: NDArray[np.int64]
    weights: Features


@dataclass(frozen=True)
class WholeFit:
    """The fit on all rows.

    Attributes:
        theta: for the scaled features, [K, D + 1], on the host.
        evaluations: how often the objective was evaluated.
        features: in the coordinates of the fit, [R, S].
        end: where it ended in these coordinates, [1, P].
        inverse: about the inverse Hessian there.
    """

    theta: NDArray[np.float64]
    evaluations: int
    features: Array
    end: Array
    inverse: Inverse


def fit_all(problem: Problem, arrays: Arrays, rows: Rows, axes: Axes, path: PenaltyPath, penalty: float) -> WholeFit:
    """Fit all rows, starting from the mean of the fits to some of them."""
    rotated = len(axes.coordinates) == len(rows.labels)
    features_RS = axes.coordinates if rotated else arrays.put(rows.features)
    size = features_RS.shape[0] * features_RS.shape[1] * problem.num_classes
    precisions = [arrays.single] * (size >= SMALL or size > EXACT) + [arrays.double] * (size <= EXACT)
    weights_1R = (rows.weights / rows.weights.sum(dtype=np.float64))[None]

    def objective_in(precision: Any) -> CrossEntropy:
        features = arrays.cast(features_RS, precision)
        return CrossEntropy(arrays, features, rows.labels, weights_1R, problem.num_classes, penalty)

    objective = first = objective_in(precisions[0])
    basis = None if rotated else axes.basis
    shape = objective.shape

    def lifted(vectors: Array) -> Array:
        """Map vectors [..., K, S + 1] along the axes to all features, [n, P]."""
        if basis is not None:
            wide = arrays.cast(vectors[..., :-1], basis.dtype) @ basis
            vectors = arrays.xp.concatenate([arrays.cast(wide, vectors.dtype), vectors[..., -1:]], -1)
        return vectors.reshape(-1, shape[1] * shape[2])

    start = lifted(path.mean_theta())
    if rotated:
        inverse = path.inverse_hessian(objective, start.reshape(shape))
    else:
        inverse = _inverse(arrays, objective, start.reshape(shape), axes, features_RS)
    nbytes = start.shape[1] * objective.features_RS.itemsize
    carried = 3 * MOST * nbytes <= WORKSPACE // 2  # the fits of the folds still have theirs
    most = MOST if carried else history_size(nbytes)
    history = History(arrays, 1, start.shape[1], most, objective.precision)
    for s, y in path.steps(CARRIED) if carried else []:
        history.append(*(arrays.cast(lifted(each), objective.precision)[None] for each in (s, y)))
    path.forget()
    change = penalty - path.objective.penalty

    def of_penalty(steps: Array) -> Array:
        added = steps.reshape(*steps.shape[:2], *shape[1:]) * change
        added[..., -1] = 0
        return added.reshape(steps.shape)

    history.rebase(inverse, of_penalty)

    def flat(x: Array) -> tuple[Array, Array]:
        value, gradient = objective(x.reshape(shape))
        return value, gradient.reshape(x.shape)

    x, evaluations = start, 0
    for precision in precisions:
        if evaluations:
            objective = objective_in(precision)
        found = minimise(
            arrays, flat, inverse, x, history,
            tolerance=CLOSELY if precision is arrays.double else IN_FLOAT32,
            most=MAX_ITERATIONS - evaluations, check=problem.check,
        )  # fmt: skip
        x, evaluations = found.x, evaluations + found.evaluations
    theta = x.reshape(shape[1:])
    if rotated:
        theta = arrays.xp.concatenate([theta[:, :-1] @ arrays.cast(axes.basis, arrays.double), theta[:, -1:]], 1)
    return WholeFit(arrays.host(theta), evaluations, first.features_RS, x, history.learnt(inverse))


def _inverse(
    arrays: Arrays, objective: CrossEntropy, theta: Array, axes: Axes, features_RS: Array
) -> Callable[[Array], Array]:
    """Return a function that multiplies by about the inverse Hessian at theta, as if all rows were equally uncertain.

    Along an axis the curvature is that of the rows of the axes; across all of them, the mean of the rest of all rows.
    Where it is cheap, that of all rows is measured instead: it halves the steps if many features matter.
    """
    uncertain = float(objective.uncertainty(theta)[0][0])
    shape = objective.shape
    penalty, dimensions = objective.penalty, shape[2] - 1
    if len(axes.squares) < dimensions <= WIDE * objective.num_classes and arrays.shares_rows:
        gram = np.asarray(features_RS.T @ features_RS, np.float64) / len(features_RS)
        whole = np.linalg.inv(uncertain * gram + penalty * np.eye(dimensions))
        whole = (whole + whole.T).astype(np.float32) / 2

        def inside(weights: Array) -> Array:
            return arrays.cast(arrays.cast(weights, whole.dtype) @ whole, weights.dtype)
    else:
        total = float(arrays.xp.sum(features_RS**2, dtype=arrays.double)) / len(features_RS)
        rest = max(total - float(axes.squares.sum()), 0.0) / max(dimensions - len(axes.squares), 1)
        across = 1 / (uncertain * min(rest, float(axes.squares.max(initial=0.0))) + penalty)
        basis, along_S = axes.basis, arrays.put(1 / (uncertain * axes.squares + penalty))
        difference_S = arrays.cast(along_S - across, basis.dtype)
        at_once = ROWS // 2 if arrays.shares_rows else len(basis)
        blocks = [slice(start, start + at_once) for start in range(0, len(basis), at_once)]

        def inside(weights: Array) -> Array:
            narrow = arrays.cast(weights, basis.dtype)
            parts = arrays.map(lambda axes: narrow @ basis[axes].T * difference_S[axes] @ basis[axes], blocks)
            return across * weights + arrays.cast(sum(parts), weights.dtype)

    def apply(vectors: Array) -> Array:
        theta = vectors.reshape(*vectors.shape[:-1], *shape[1:])
        weights, bias = inside(theta[..., :-1]), theta[..., -1:] / uncertain
        return arrays.xp.concatenate([weights, bias], -1).reshape(vectors.shape)

    return apply
