"""Multinomial logistic regression by L-BFGS, with a penalty chosen by cross-validation.

The optimum lies in the span of the images. So with fewer images than features the fit is done in that span: rotating by
the singular vectors changes neither the problem nor the penalty, but makes it much cheaper. The new axes are
uncorrelated, so scaling each by its curvature makes the problem well conditioned, and a few dozen steps suffice.

Shapes as in problem.py; R rows are V views of N images, S the dimensions of a fit, F folds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.folds import stratified_folds, stratified_sample
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

FAR_BELOW = 0.25
"""If a fit ends with less than this share of its initial objective, it continues with new units and coordinates."""

ONE_THREAD = 2048
"""Matrix size up to which threads of a decomposition, on a busy machine, wait for each other more than they work."""

WORKSPACE = 64 * 2**20
"""Bytes for the past steps of L-BFGS, as long as at least a few fit."""

EXACT = 2**24
"""Rows x features x classes up to which the fit on all rows is computed in float64, in a tenth of a second at most. In
float32 L-BFGS stops where rounding hides further progress, and the head would depend on that rounding."""

Real = NDArray[np.floating[Any]]
Theta = NDArray[np.float64]
"""Weights and, in the last column, biases: [F, K, S + 1]."""


@dataclass(frozen=True)
class _Rows:
    """Standardised features [R, D], labels [R], weights [R] of 1 on average.

    A fit computes in the precision of the features.
    """

    features: Real
    labels: NDArray[np.int64]
    weights: Features

    def of(self, chosen: NDArray[np.bool_]) -> _Rows:
        weights = self.weights[chosen]
        return _Rows(self.features[chosen], self.labels[chosen], weights / weights.mean())


def fit_logistic(problem: Problem, settings: LbfgsHead) -> FittedHead:
    """Fit multinomial logistic regression by L-BFGS (Nocedal and Wright, Numerical Optimization, ch. 7).

    Minimises the weighted mean cross-entropy + penalty / 2 * |W|^2 over standardised features; the bias is not
    penalised. If no penalty is given, stratified cross-validation chooses the one with the lowest log loss: all views
    of an image are in the same fold, and held-out images are evaluated by their view without augmentation.

    Raises:
        DivergedError: the features or the fitted head are not finite.
    """
    raw_RD, image_R = problem.stacked()
    standard = standard_of(raw_RD)
    features_RS, basis_SD = _in_span(standard(raw_RD))
    rows = _Rows(features_RS, problem.labels[image_R], problem.image_weights[image_R].astype(np.float32))
    penalty = settings.penalty
    facts: dict[str, Any] = {"kind": "lbfgs", "penalty_chosen": penalty is None}
    if penalty is None:
        penalty, chosen = choose_penalty(problem, rows, image_R, rotated=basis_SD is not None)
        facts |= chosen
    if features_RS.size * problem.num_classes <= EXACT:
        rows = replace(rows, features=features_RS.astype(np.float64))
    whole_1R = (rows.weights / rows.weights.sum())[None]
    theta, iterations = _minimise(rows, whole_1R, problem.num_classes, penalty, None, problem.check)
    facts |= {"penalty": penalty, "iterations": iterations, "converged": iterations < MAX_ITERATIONS}
    weight_KS, bias_K = theta[0, :, :-1], theta[0, :, -1]
    return standard.folded(weight_KS if basis_SD is None else weight_KS @ basis_SD, bias_K, facts)


def choose_penalty(
    problem: Problem, rows: _Rows, image_R: NDArray[np.int64], *, rotated: bool
) -> tuple[float, dict[str, Any]]:
    """Return the penalty with the lowest log loss in cross-validation, and facts about the choice.

    The penalty found for the rows of a fold is scaled to all rows: it is added to a mean, while the prior that it
    represents does not grow with the number of rows.

    Args:
        rotated: the features are already in the coordinates of their span.
    """
    labels_N = problem.labels
    kept = stratified_sample(labels_N, CROSS_VALIDATION_IMAGES, FOLDS, problem.seed)
    fold_N = np.full(len(labels_N), -1)
    fold_N[kept] = stratified_folds(labels_N[kept], FOLDS, problem.seed)
    fold_N[np.bincount(labels_N)[labels_N] == 1] = FOLDS  # alone in its class: never held out
    used_F = np.unique(fold_N[(fold_N >= 0) & (fold_N < FOLDS)])
    if not len(used_F):
        return WITHOUT_FOLDS, {"cross_validation_log_loss": None, "penalty_at_edge": False}
    fold_R, plain_R = fold_N[image_R], np.arange(len(image_R)) < len(labels_N)
    sample = rows.of(fold_R >= 0)
    if not rotated:
        sample = replace(sample, features=_principal(sample.features)[0])
    fold_R, plain_R = fold_R[fold_R >= 0], plain_R[fold_R >= 0]
    fitted_FR = (fold_R != used_F[:, None]) * sample.weights
    fitted_FR /= fitted_FR.sum(1, keepdims=True)
    half, log_loss = _best_of_folds(problem, sample, fitted_FR, (fold_R == used_F[:, None]) & plain_R)
    share = float((fitted_FR > 0).sum(1).mean()) / len(image_R)
    facts = {"cross_validation_log_loss": log_loss, "penalty_at_edge": half in (STRONGEST, WEAKEST)}
    return 10 ** (half / 2) * share, facts


def _best_of_folds(
    problem: Problem, sample: _Rows, fitted_FR: Features, held_out_FR: NDArray[np.bool_]
) -> tuple[int, float]:
    """Return the best penalty for the rows of a fold, as twice its power of ten, and the log loss of held-out images.

    All folds are fitted at once as one separable problem, so that the features are read only once. From strong to weak
    penalties, each fit starts from the previous one.
    """
    losses: dict[int, float] = {}
    theta: Theta | None = None

    def fit(half: int) -> None:
        nonlocal theta
        arguments = (sample, fitted_FR, problem.num_classes, 10 ** (half / 2), theta, problem.check)
        theta, _ = _minimise(*arguments, tolerance=3e-4)
        log_loss_FR = _log_loss(_logits(theta, sample.features), sample.labels)[0]
        losses[half] = float((log_loss_FR * sample.weights)[held_out_FR].sum()) / int(held_out_FR.sum())

    for half in range(FIRST, WEAKEST - 1, -1):
        fit(half)
        if FIRST - half >= 2 and min(losses[half], losses[half + 1]) > min(list(losses.values())[:-2]) - WORTH:
            break
    theta = None
    for half in range(FIRST + 1, STRONGEST + 1):
        if losses[half - 1] > min(losses.values()):
            break
        fit(half)
    best = min(losses, key=lambda half: losses[half])
    return best, losses[best]


def _in_span(features_RD: Features) -> tuple[Features, Features | None]:
    """Return the rows in the coordinates of their span and its axes [S, D], if that is smaller; else unchanged."""
    count, dimensions = features_RD.shape
    return (features_RD, None) if count >= dimensions else _principal(features_RD)


def _principal(features_RD: Features) -> tuple[Features, Features]:
    """Return the rows [R, S] in the orthonormal principal axes [S, D] of their span, and the axes."""
    from threadpoolctl import threadpool_limits

    whole = features_RD.astype(np.float64)
    wide = len(whole) < whole.shape[1]
    gram = whole @ whole.T if wide else whole.T @ whole
    with threadpool_limits(1 if len(gram) <= ONE_THREAD else None, user_api="blas"):
        values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-10
    vectors, scales = vectors[:, kept], np.sqrt(values[kept])
    coordinates_RS = vectors * scales if wide else whole @ vectors
    basis_SD = (vectors / scales).T @ whole if wide else vectors.T
    return np.ascontiguousarray(coordinates_RS, np.float32), np.ascontiguousarray(basis_SD, np.float32)


def _minimise(
    rows: _Rows,
    weights_FR: Features,
    num_classes: int,
    penalty: float,
    start: Theta | None,
    check: Callable[[], None],
    tolerance: float = 1e-6,
) -> tuple[Theta, int]:
    """Minimise F convex objectives over the same rows from `start`, each with its own row weights, [F, R].

    Args:
        tolerance: of the gradient, in well-conditioned coordinates, with the objective in units of its initial value.
            If the objective falls far below that, another round starts there, with new units and coordinates.

    Returns:
        The minimum and the number of iterations.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    shape = (len(weights_FR), num_classes, rows.features.shape[1] + 1)
    if start is None:
        start = np.zeros(shape)
    steps = int(WORKSPACE / (2 * start.nbytes))
    if len(start) > 1 and steps < MEMORY:
        one_by_one = [
            _minimise(rows, weights_FR[[fold]], num_classes, penalty, start[[fold]], check, tolerance)
            for fold in range(len(start))
        ]
        return np.concatenate([theta for theta, _ in one_by_one]), max(iterations for _, iterations in one_by_one)
    scale_S, unit = np.ones(shape[-1]), 1.0

    def objective(round_theta: Theta) -> tuple[float, Theta]:
        check()
        theta = round_theta.reshape(shape) / scale_S
        log_loss_FR, residual_FRK = _log_loss(_logits(theta, rows.features), rows.labels)
        residual_FRK *= weights_FR[:, :, None]
        columns = residual_FRK.transpose(1, 0, 2).reshape(len(rows.labels), -1)  # [R, F * K]: one product for all
        gradient = np.empty(shape)
        gradient[..., :-1] = (columns.T @ rows.features).reshape(*shape[:2], -1)
        gradient[..., :-1] += penalty * theta[..., :-1]
        gradient[..., -1] = columns.sum(0, dtype=np.float64).reshape(shape[:2])
        loss = float((weights_FR * log_loss_FR).sum(dtype=np.float64))
        loss += penalty / 2 * float(np.square(theta[..., :-1]).sum())
        return loss / unit, (gradient / (scale_S * unit)).ravel()

    theta, iterations, ratio = start, 0, 0.0
    options = {"maxcor": min(max(steps, 3), MEMORY), "gtol": tolerance, "ftol": tolerance / 1e4}
    with threadpool_limits(1, user_api="blas"):  # numpy's and scipy's threads wait for each other: three times slower
        while ratio < FAR_BELOW and iterations < MAX_ITERATIONS:
            scale_S, unit = _curvature(rows, theta, penalty), 1.0
            unit = max(objective((theta * scale_S).ravel())[0], 1e-12)
            options["maxiter"] = MAX_ITERATIONS - iterations
            found = minimize(objective, (theta * scale_S).ravel(), jac=True, method="L-BFGS-B", options=options)
            theta, ratio = found.x.reshape(shape) / scale_S, float(found.fun)
            iterations += max(int(found.nit), 1)
    return theta, iterations


def _curvature(rows: _Rows, theta: Theta, penalty: float) -> NDArray[np.float64]:
    """Return the square root of the objective's mean curvature at theta, for each feature and the bias, [S + 1]."""
    logits_FRK = _logits(theta, rows.features)
    _, residual_FRK = _log_loss(logits_FRK, rows.labels)
    uncertain = float((np.abs(residual_FRK) * (1 - np.abs(residual_FRK))).mean(dtype=np.float64))  # p * (1 - p)
    uncertain = max(uncertain, 1e-6)
    squares_S = np.einsum("rs,rs->s", rows.features, rows.features, dtype=np.float64) / len(rows.labels)
    curvature: NDArray[np.float64] = np.append(uncertain * squares_S + penalty, uncertain)
    return np.sqrt(curvature)


def _logits(theta: Theta, features_RS: Real) -> Real:
    """Return the logits of every fold, [F, R, K], in the precision of the features."""
    folds, num_classes, _ = theta.shape
    flat = theta[..., :-1].reshape(folds * num_classes, -1).astype(features_RS.dtype)
    logits_RFK = (features_RS @ flat.T).reshape(len(features_RS), folds, num_classes)
    return logits_RFK.transpose(1, 0, 2) + theta[:, None, :, -1].astype(features_RS.dtype)


def _log_loss(logits_FRK: Real, labels_R: NDArray[np.int64]) -> tuple[Real, Real]:
    """Return the cross-entropy of each row, [F, R], and its gradient in the logits, [F, R, K].

    Both are computed from the probabilities of the other classes, never as 1 - p of the label: for confident rows,
    which most are, p rounds to 1 in float32, and the fit would follow the rounding error.
    """
    each = np.arange(len(labels_R))
    shifted_FRK = logits_FRK - logits_FRK.max(2, keepdims=True)
    label_FR = shifted_FRK[:, each, labels_R]
    powers_FRK = np.exp(shifted_FRK)
    power_FR = powers_FRK[:, each, labels_R]
    powers_FRK[:, each, labels_R] = 0
    others_FR = powers_FRK.sum(2)
    sums_FR = others_FR + power_FR
    log_loss_FR = np.where(label_FR == 0, np.log1p(others_FR), np.log(sums_FR) - label_FR)
    residual_FRK = powers_FRK / sums_FR[:, :, None]
    residual_FRK[:, each, labels_R] = -others_FR / sums_FR
    return log_loss_FR, residual_FRK
