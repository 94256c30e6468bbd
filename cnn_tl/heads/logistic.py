"""Multinomial logistic regression by L-BFGS, its penalty chosen by cross-validation.

The optimum lies in the span of the pictures, so with fewer pictures than features the fit is done in that span: rotated
by the singular vectors nothing changes, the penalty included, and everything gets cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.folds import stratified_folds, stratified_sample
from cnn_tl.heads.problem import Features, FittedHead, Problem
from cnn_tl.heads.standard import standard_of
from cnn_tl.recipe_sections import Head

PENALTIES = [10.0**exponent for exponent in (0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0)]
"""Strong to weak, so that each fit starts from the one before it."""

MAX_ITERATIONS = 500
FOLDS = 5
CROSS_VALIDATION_PICTURES = 2_000
"""The penalty is chosen on at most about this many pictures; more would cost time and move it hardly at all."""

WITHOUT_FOLDS = 0.1
"""The penalty where some class has one picture only, so that nothing can be left out."""

Theta = NDArray[np.float64]


@dataclass(frozen=True)
class _Rows:
    """Standardised features [R, D], labels [R], weights [R] of 1 on average."""

    features: Features
    labels: NDArray[np.int64]
    weights: Features

    def of(self, chosen: NDArray[np.bool_]) -> _Rows:
        weights = self.weights[chosen]
        return _Rows(self.features[chosen], self.labels[chosen], weights / weights.mean())


def fit_logistic(problem: Problem, settings: Head) -> FittedHead:
    """Fit multinomial logistic regression by L-BFGS (Nocedal and Wright, Numerical Optimization, ch. 7).

    Minimises the weighted mean of the cross-entropy + penalty / 2 * |W|^2 over standardised features; the bias is not
    penalised. Without a penalty, the one with the lowest log loss in stratified cross-validation is taken: all views of
    a picture on one side, the held-out pictures judged by their plain view.

    Raises:
        DivergedError: the features or the fitted head are not finite.
    """
    raw_RD, picture_R = problem.stacked()
    standard = standard_of(raw_RD)
    features_RS, basis_SD = _in_span(standard(raw_RD))
    rows = _Rows(features_RS, problem.labels[picture_R], problem.picture_weights[picture_R].astype(np.float32))
    penalty, facts = settings.penalty, {"kind": "lbfgs", "penalty_chosen": settings.penalty is None}
    if penalty is None:
        penalty, facts["cross_validation_log_loss"] = choose_penalty(problem, rows, picture_R)
    theta, iterations = _minimise(rows, problem.num_classes, penalty, None, problem.check)
    facts |= {"penalty": penalty, "iterations": iterations, "converged": iterations < MAX_ITERATIONS}
    weight_KS, bias_K = _unpacked(theta, problem.num_classes)
    weight_KD = weight_KS if basis_SD is None else weight_KS @ basis_SD
    return standard.folded(weight_KD, bias_K, facts)


def choose_penalty(problem: Problem, rows: _Rows, picture_R: NDArray[np.int64]) -> tuple[float, float | None]:
    """Return the penalty of `PENALTIES` with the lowest log loss in cross-validation, and that log loss."""
    labels_N = problem.labels
    folds = min(FOLDS, int(np.bincount(labels_N, minlength=problem.num_classes).min()))
    if folds < 2:
        return WITHOUT_FOLDS, None
    kept = stratified_sample(labels_N, CROSS_VALIDATION_PICTURES, FOLDS, problem.seed)
    fold_N = np.full(len(labels_N), -1)
    fold_N[kept] = stratified_folds(labels_N[kept], folds, problem.seed)
    fold_R, plain_R = fold_N[picture_R], np.arange(len(picture_R)) < len(labels_N)
    losses = np.zeros(len(PENALTIES))
    for fold in range(folds):
        fitted = rows.of((fold_R >= 0) & (fold_R != fold))
        held_out = rows.of((fold_R == fold) & plain_R)
        theta = None
        for index, penalty in enumerate(PENALTIES):
            theta, _ = _minimise(fitted, problem.num_classes, penalty, theta, problem.check, tolerance=1e-4)
            weight_KS, bias_K = _unpacked(theta, problem.num_classes)
            log_loss_R, _ = _log_loss(held_out.features @ weight_KS.T.astype(np.float32) + bias_K, held_out.labels)
            losses[index] += float(held_out.weights @ log_loss_R)
    best = int(losses.argmin())
    return PENALTIES[best], float(losses[best]) / len(kept)


def _in_span(features_RD: Features) -> tuple[Features, Features | None]:
    """Return the rows in an orthonormal basis [S, D] of their span, if that is the smaller space; else as they are."""
    count, dimensions = features_RD.shape
    if count >= dimensions:
        return features_RD, None
    gram = features_RD.astype(np.float64) @ features_RD.T
    values, vectors = np.linalg.eigh(gram)
    kept = values > values[-1] * 1e-10
    scales = np.sqrt(values[kept])
    coordinates_RS = (vectors[:, kept] * scales).astype(np.float32)
    basis_SD = ((vectors[:, kept] / scales).T @ features_RD).astype(np.float32)
    return np.ascontiguousarray(coordinates_RS), basis_SD


def _minimise(
    rows: _Rows,
    num_classes: int,
    penalty: float,
    start: Theta | None,
    check: Callable[[], None],
    tolerance: float = 1e-6,
) -> tuple[Theta, int]:
    """Minimise the convex objective from `start`; return weight and bias in one vector, and how many iterations."""
    from scipy.optimize import minimize

    weights_R = rows.weights / np.float32(len(rows.labels))

    def objective(theta: Theta) -> tuple[float, Theta]:
        check()
        weight_KS, bias_K = _unpacked(theta, num_classes)
        logits_RK = rows.features @ weight_KS.T.astype(np.float32) + bias_K.astype(np.float32)
        log_loss_R, residual_RK = _log_loss(logits_RK, rows.labels)
        residual_RK *= weights_R[:, None]
        gradient_KS = (residual_RK.T @ rows.features).astype(np.float64) + penalty * weight_KS
        gradient_K = residual_RK.sum(0, dtype=np.float64)
        loss = float(weights_R @ log_loss_R) + penalty / 2 * float(np.square(weight_KS).sum())
        return loss, np.concatenate([gradient_KS.ravel(), gradient_K])

    if start is None:
        start = np.zeros(num_classes * (rows.features.shape[1] + 1))
    options = {"maxiter": MAX_ITERATIONS, "maxcor": 20, "gtol": tolerance, "ftol": 1e-10}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return found.x, int(found.nit)


def _log_loss(logits_RK: NDArray[Any], labels_R: NDArray[np.int64]) -> tuple[Features, Features]:
    """Return the cross-entropy of each row, [R], and its gradient in the logits, [R, K]."""
    each = np.arange(len(labels_R))
    shifted_RK = (logits_RK - logits_RK.max(1, keepdims=True)).astype(np.float32)
    powers_RK = np.exp(shifted_RK)
    sums_R = powers_RK.sum(1)
    log_loss_R = np.log(sums_R) - shifted_RK[each, labels_R]
    residual_RK = powers_RK / sums_R[:, None]
    residual_RK[each, labels_R] -= 1
    return log_loss_R, residual_RK


def _unpacked(theta: Theta, num_classes: int) -> tuple[Theta, Theta]:
    return theta[:-num_classes].reshape(num_classes, -1), theta[-num_classes:]
