"""Multinomial logistic regression by L-BFGS, with a penalty chosen by cross-validation.

The optimum lies in the span of the images. So the cross-validation takes place in the principal axes of its images:
rotating changes neither the problem nor the penalty. These axes are uncorrelated, so the curvature along each is known,
and a few steps suffice. They precondition the fit on all images as well, in all features if these images do not span
them; that fit starts from the mean of the folds.

Shapes as in problem.py; R rows are V views of N images, S the dimensions of a fit, F folds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import SMALL, Array, Arrays, compute
from cnn_tl.heads.cross_entropy import ROWS, CrossEntropy
from cnn_tl.heads.folds import stratified_folds, stratified_sample
from cnn_tl.heads.lbfgs import History, minimise
from cnn_tl.heads.problem import Features, FittedHead, Problem
from cnn_tl.heads.scaling import standard_of
from cnn_tl.recipe.resolved import LbfgsHead

STRONGEST, FIRST, WEAKEST = 8, 1, -10
"""Penalties are tried in half powers of ten, 10 ** (half / 2): from FIRST to weaker ones, then to stronger ones."""

WORTH = 1e-3
"""The minimum improvement of the log loss by a weaker penalty. Without mistakes, ever weaker ones would win."""

MAX_ITERATIONS = 500
MEMORY = 20
"""Past steps that L-BFGS keeps, if memory allows."""

FOLDS = 5
CROSS_VALIDATION_IMAGES = 1_000
"""The penalty is chosen on at most about this many images; twice as many took twice as long and were no better."""

WITHOUT_FOLDS = 0.1
"""The penalty if every class has only one image, so that none can be left out."""

ONE_THREAD = 2048
"""Matrix size up to which threads of a decomposition, on a busy machine, wait for each other more than they work."""

WORKSPACE = 48 * 2**20
"""Bytes for the past steps of L-BFGS, as long as at least a few fit."""

EXACT = 2**24
"""Rows x features x classes up to which the fit on all rows ends in float64. In float32 L-BFGS stops where rounding
hides further progress, and the head depends on that rounding."""

WIDE = 150
"""Features per class up to which the products of all features take no longer than a few dozen evaluations."""

ROUGHLY, CLOSELY, IN_FLOAT32 = 1e-6, 1e-11, 1e-8
"""Of the objective, what the next step may promise where a fit ends: while the penalty is chosen, and afterwards."""

AHEAD = 0.7
"""The next penalty's fit starts this share of the last change of theta further on."""

Theta = NDArray[np.float64]
"""Weights and, in the last column, biases: [F, K, S + 1]."""


@dataclass(frozen=True)
class _Rows:
    """Standardised features [R, D], labels [R], weights [R] of 1 on average."""

    features: Features
    labels: NDArray[np.int64]
    weights: Features


@dataclass(frozen=True)
class _Axes:
    """Orthonormal principal axes of some rows.

    Attributes:
        coordinates: of the rows, float64 [R, S], where the fit is computed.
        basis: the axes, float32 [S, D], likewise.
        squares: the mean square of each coordinate, [S], on the host.
    """

    coordinates: Array
    basis: Array
    squares: Theta


def fit_logistic(problem: Problem, settings: LbfgsHead) -> FittedHead:
    """Fit multinomial logistic regression by L-BFGS (Nocedal and Wright, Numerical Optimization, ch. 7).

    Minimises the weighted mean cross-entropy + penalty / 2 * |W|^2 over standardised features; the bias is not
    penalised. If no penalty is given, stratified cross-validation chooses the one with the lowest log loss: all views
    of an image are in the same fold, and held-out images are evaluated by their view without augmentation.

    Raises:
        DivergedError: the features or the fitted head are not finite.
    """
    from threadpoolctl import threadpool_limits

    raw_RD, image_R = problem.stacked()
    standard = standard_of(raw_RD)
    labels_R = problem.labels[image_R]
    weights_R = problem.image_weights[image_R].astype(np.float32)
    rows = _Rows(standard(raw_RD), labels_R, weights_R)
    sample = _sample(problem, image_R)
    with threadpool_limits(1, user_api="blas"):
        size = raw_RD.size * problem.num_classes
        theta, facts = compute(
            size, problem.device, lambda arrays: _fit(problem, arrays, rows, sample, settings.penalty)
        )
    return standard.folded(theta[:, :-1], theta[:, -1], facts)


def _fit(
    problem: Problem, arrays: Arrays, rows: _Rows, sample: _Sample, penalty: float | None
) -> tuple[Theta, dict[str, Any]]:
    """Return theta of the standardised features, [K, D + 1], and facts."""
    facts: dict[str, Any] = {"kind": "lbfgs", "penalty_chosen": penalty is None}
    axes = _principal(arrays, rows.features[sample.rows_n])
    path = None
    if penalty is None:
        penalty, path, chosen = _choose_penalty(problem, arrays, rows, sample, axes)
        facts |= chosen
    if path is None:
        path = _path_to(penalty, problem, arrays, rows, sample, axes)
    theta, iterations = _fit_all(problem, arrays, rows, axes, path, penalty)
    facts |= {"penalty": penalty, "iterations": iterations, "converged": iterations < MAX_ITERATIONS}
    return theta, facts


@dataclass(frozen=True)
class _Sample:
    """The rows on which the penalty is chosen: all views of some images.

    Attributes:
        rows_n: indices among all rows, ascending.
        fold_n: the fold of each; FOLDS if it is never held out.
        plain_n: whether a row is a view without augmentation.
    """

    rows_n: NDArray[np.int64]
    fold_n: NDArray[np.int64]
    plain_n: NDArray[np.bool_]


def _sample(problem: Problem, image_R: NDArray[np.int64]) -> _Sample:
    labels_N = problem.labels
    kept = stratified_sample(labels_N, CROSS_VALIDATION_IMAGES, FOLDS, problem.seed)
    fold_N = np.full(len(labels_N), -1)
    fold_N[kept] = stratified_folds(labels_N[kept], FOLDS, problem.seed)
    fold_N[np.bincount(labels_N)[labels_N] == 1] = FOLDS  # alone in its class: never held out
    fold_R = fold_N[image_R]
    rows_n = np.flatnonzero(fold_R >= 0)
    return _Sample(rows_n, fold_R[rows_n], rows_n < len(labels_N))


def _choose_penalty(
    problem: Problem, arrays: Arrays, rows: _Rows, sample: _Sample, axes: _Axes
) -> tuple[float, _Path | None, dict[str, Any]]:
    """Return the penalty with the lowest log loss in cross-validation, the fits with it, and facts about the choice.

    The penalty found for the rows of a fold is scaled to all rows: it is added to a mean, while the prior that it
    represents does not grow with the number of rows.
    """
    used_F = np.unique(sample.fold_n[sample.fold_n < FOLDS])
    if not len(used_F):
        return WITHOUT_FOLDS, None, {"cross_validation_log_loss": None, "penalty_at_edge": False}
    weights_n = rows.weights[sample.rows_n]
    weights_n /= weights_n.mean()
    fitted_Fn = (sample.fold_n != used_F[:, None]) * weights_n
    fitted_Fn /= fitted_Fn.sum(1, keepdims=True)
    held_out_Fn = (sample.fold_n == used_F[:, None]) & sample.plain_n

    def new_path() -> _Path:
        return _Path(problem, arrays, axes, rows.labels[sample.rows_n], fitted_Fn)

    half, log_loss, path = _best_of_folds(new_path, weights_n, held_out_Fn)
    share = float((fitted_Fn > 0).sum(1).mean()) / len(rows.labels)
    facts = {"cross_validation_log_loss": log_loss, "penalty_at_edge": half in (STRONGEST, WEAKEST)}
    return 10 ** (half / 2) * share, path, facts


def _best_of_folds(
    new_path: Callable[[], _Path], weights_n: Features, held_out_Fn: NDArray[np.bool_]
) -> tuple[int, float, _Path]:
    """Return the best penalty for the rows of a fold, as twice its power of ten, and the log loss of held-out images.

    All folds are fitted at once as one separable problem, so that the features are read only once.
    """
    losses: dict[int, float] = {}
    best: Array | None = None

    def fit(path: _Path, half: int) -> None:
        nonlocal best
        path.fit(10 ** (half / 2), ROUGHLY)
        log_loss_Fn = path.log_loss()
        losses[half] = float((log_loss_Fn * weights_n)[held_out_Fn].sum()) / int(held_out_Fn.sum())
        if losses[half] == min(losses.values()):
            best = path.theta

    weaker = path = new_path()
    for half in range(FIRST, WEAKEST - 1, -1):
        fit(path, half)
        if FIRST - half >= 2 and min(losses[half], losses[half + 1]) > min(list(losses.values())[:-2]) - WORTH:
            break
    for half in range(FIRST + 1, STRONGEST + 1):
        if losses[half - 1] > min(losses.values()):
            break
        if path is weaker:
            path = new_path()
        fit(path, half)
    path.theta = best
    half = min(losses, key=lambda half: losses[half])
    return half, losses[half], path


def _path_to(penalty: float, problem: Problem, arrays: Arrays, rows: _Rows, sample: _Sample, axes: _Axes) -> _Path:
    """Fit the sample as one, from strong penalties to the given one."""
    weights_n = rows.weights[sample.rows_n]
    path = _Path(problem, arrays, axes, rows.labels[sample.rows_n], (weights_n / weights_n.sum())[None])
    for half in range(FIRST, WEAKEST * 10, -1):
        if 10 ** (half / 2) <= penalty * 1.01:
            break
        path.fit(10 ** (half / 2), ROUGHLY)
    path.fit(penalty, ROUGHLY)
    return path


def _fit_all(
    problem: Problem, arrays: Arrays, rows: _Rows, axes: _Axes, path: _Path, penalty: float
) -> tuple[Theta, int]:
    """Fit all rows, starting from the mean of the fits to some of them; return theta [K, D + 1] and the evaluations."""
    rotated = len(axes.coordinates) == len(rows.labels)
    features_RS = axes.coordinates if rotated else arrays.put(rows.features)
    size = features_RS.shape[0] * features_RS.shape[1] * problem.num_classes
    precisions = [arrays.single] * (size >= SMALL or size > EXACT) + [arrays.double] * (size <= EXACT)
    weights_1R = (rows.weights / rows.weights.sum(dtype=np.float64))[None]

    def objective_in(precision: Any) -> CrossEntropy:
        features = arrays.cast(features_RS, precision)
        return CrossEntropy(arrays, features, rows.labels, weights_1R, problem.num_classes, penalty)

    objective = objective_in(precisions[0])
    basis = None if rotated else axes.basis
    shape = objective.shape

    def lifted(vectors: Array) -> Array:
        """Map vectors [..., K, S + 1] along the axes to all features, [n, P]."""
        if basis is not None:
            wide = arrays.cast(vectors[..., :-1], basis.dtype) @ basis
            vectors = arrays.xp.concatenate([arrays.cast(wide, vectors.dtype), vectors[..., -1:]], -1)
        return vectors.reshape(-1, shape[1] * shape[2])

    start = lifted(path.mean_theta())
    inverse = _inverse(arrays, objective, start.reshape(shape), axes, basis, features_RS)
    nbytes = start.shape[1] * objective.features_RS.itemsize
    carried = 3 * FOLDS * MEMORY * nbytes <= WORKSPACE
    most = FOLDS * MEMORY if carried else history_size(nbytes)
    history = History(arrays, 1, start.shape[1], most, objective.precision)
    for s, y in path.steps() if carried else []:
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
    return arrays.host(theta), evaluations


def _inverse(
    arrays: Arrays, objective: CrossEntropy, theta: Array, axes: _Axes, basis: Array | None, features_RS: Array
) -> Callable[[Array], Array]:
    """Return a function that multiplies by about the inverse Hessian at theta, as if all rows were equally uncertain.

    Along an axis the curvature is that of the rows of the axes; across all of them, the mean of the rest of all rows.
    Where it is cheap, that of all rows is measured instead: it halves the steps if many features matter.
    """
    uncertain = float(objective.uncertainty(theta)[0])
    shape = objective.shape
    penalty, dimensions = objective.penalty, shape[2] - 1
    along_S = arrays.put(1 / (uncertain * axes.squares + penalty))
    if basis is None:

        def inside(weights: Array) -> Array:
            return weights * arrays.cast(along_S, weights.dtype)
    elif len(axes.squares) < dimensions <= WIDE * objective.num_classes and arrays.shares_rows:
        gram = np.asarray(features_RS.T @ features_RS, np.float64) / len(features_RS)
        whole = np.linalg.inv(uncertain * gram + penalty * np.eye(dimensions))
        whole = (whole + whole.T).astype(np.float32) / 2

        def inside(weights: Array) -> Array:
            return arrays.cast(arrays.cast(weights, whole.dtype) @ whole, weights.dtype)
    else:
        total = float(arrays.xp.sum(features_RS**2, dtype=arrays.double)) / len(features_RS)
        rest = max(total - float(axes.squares.sum()), 0.0) / max(dimensions - len(axes.squares), 1)
        across = 1 / (uncertain * min(rest, float(axes.squares.max())) + penalty)
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


def history_size(nbytes: int) -> int:
    """Return how many past steps of so many bytes to keep."""
    return max(3, min(WORKSPACE // (3 * nbytes), MEMORY))


class _Path:
    """Fits of some folds over the same rows, from strong to weak penalties: each starts where earlier ones lead."""

    def __init__(
        self,
        problem: Problem,
        arrays: Arrays,
        axes: _Axes,
        labels_R: NDArray[np.int64],
        weights_FR: Features,
    ) -> None:
        self.arrays, self.problem = arrays, problem
        features = arrays.cast(axes.coordinates, arrays.single)
        self.objective = CrossEntropy(arrays, features, labels_R, weights_FR, problem.num_classes)
        folds, num_classes, width = self.objective.shape
        self.squares_S = axes.squares
        self.theta = arrays.zeros((folds, num_classes * width), arrays.double)
        self.before: Array | None = None
        most = history_size(folds * num_classes * width * self.objective.features_RS.itemsize)
        self.history = History(arrays, folds, num_classes * width, most, self.objective.precision)

    def fit(self, penalty: float, tolerance: float) -> int:
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
            tolerance=tolerance, most=MAX_ITERATIONS, check=self.problem.check,
        )  # fmt: skip
        self.before, self.theta = self.theta, found.x
        return found.evaluations

    def _flat(self, x: Array) -> tuple[Array, Array]:
        value, gradient = self.objective(x.reshape(self.objective.shape))
        return value, gradient.reshape(x.shape)

    def log_loss(self) -> NDArray[np.floating[Any]]:
        """Return the cross-entropy of each row in each fold, [F, R]."""
        return self.objective.log_loss(self.theta.reshape(self.objective.shape))

    def forget(self) -> None:
        """Free the memory of the past steps; no other fit is possible."""
        del self.history

    def mean_theta(self) -> Array:
        """Return the mean of the folds, [1, K, S + 1]."""
        return self.theta.reshape(self.objective.shape).mean(0)[None]

    def steps(self) -> list[tuple[Array, Array]]:
        """Return the past steps of each fold and the differences of their gradients, [m, K, S + 1] each."""
        order = self.history.slots
        shape = (len(order), *self.objective.shape[1:])
        pairs = (self.history.s[:, order], self.history.y[:, order])
        return [(s.reshape(shape), y.reshape(shape)) for s, y in zip(*pairs, strict=True)]


def _principal(arrays: Arrays, features_RD: Features) -> _Axes:
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
    return _Axes(coordinates_RS, basis_SD, values / len(features_RD))
