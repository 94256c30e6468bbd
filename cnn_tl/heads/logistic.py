"""Multinomial logistic regression by L-BFGS, its penalty chosen by cross-validation.

The optimum lies in the span of the pictures, so with fewer pictures than features the fit is done in that span: rotated
by the singular vectors nothing changes, the penalty included, and everything gets cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
CROSS_VALIDATION_PICTURES = 1_000
"""The penalty is chosen on at most about this many pictures; twice as many took twice the time and chose as well."""

WITHOUT_FOLDS = 0.1
"""The penalty where every class has one picture only, so that nothing can be left out."""

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
    whole_1R = (rows.weights / rows.weights.sum())[None]
    theta, iterations = _minimise(rows, whole_1R, problem.num_classes, penalty, None, problem.check)
    facts |= {"penalty": penalty, "iterations": iterations, "converged": iterations < MAX_ITERATIONS}
    weight_1KS, bias_1K = _unpacked(theta, 1, problem.num_classes)
    weight_KD = weight_1KS[0] if basis_SD is None else weight_1KS[0] @ basis_SD
    return standard.folded(weight_KD, bias_1K[0], facts)


def choose_penalty(problem: Problem, rows: _Rows, picture_R: NDArray[np.int64]) -> tuple[float, float | None]:
    """Return the penalty with the lowest log loss in cross-validation, and that log loss.

    All folds are fitted at once, as one separable problem, so that the features are read once for all of them.
    Penalties are tried from strong to weak until the loss has risen twice. What is right for the pictures of a fold is
    scaled to all pictures: the penalty stands beside a mean, and what it stands for, a prior, does not grow with them.
    """
    labels_N = problem.labels
    kept = stratified_sample(labels_N, CROSS_VALIDATION_PICTURES, FOLDS, problem.seed)
    fold_N = np.full(len(labels_N), -1)
    fold_N[kept] = stratified_folds(labels_N[kept], FOLDS, problem.seed)
    fold_N[np.bincount(labels_N)[labels_N] == 1] = FOLDS  # alone in its class: learned from, never held out
    used_F = np.unique(fold_N[(fold_N >= 0) & (fold_N < FOLDS)])
    if not len(used_F):
        return WITHOUT_FOLDS, None
    fold_R, plain_R = fold_N[picture_R], np.arange(len(picture_R)) < len(labels_N)
    sample = rows.of(fold_R >= 0)
    fold_R, plain_R = fold_R[fold_R >= 0], plain_R[fold_R >= 0]
    fitted_FR = (fold_R != used_F[:, None]) * sample.weights
    fitted_FR /= fitted_FR.sum(1, keepdims=True)
    held_out_FR = (fold_R == used_F[:, None]) & plain_R
    folds = len(used_F)
    losses: list[float] = []
    theta = None
    for penalty in PENALTIES:
        theta, _ = _minimise(sample, fitted_FR, problem.num_classes, penalty, theta, problem.check, roughly=True)
        log_loss_FR = _log_loss(_logits(theta, sample.features, folds, problem.num_classes), sample.labels)[0]
        losses.append(float((log_loss_FR * sample.weights)[held_out_FR].sum()) / int(held_out_FR.sum()))
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break
    best = int(np.argmin(losses))
    return PENALTIES[best] * len(kept) * (1 - 1 / folds) / len(labels_N), losses[best]


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
    weights_FR: Features,
    num_classes: int,
    penalty: float,
    start: Theta | None,
    check: Callable[[], None],
    roughly: bool = False,
) -> tuple[Theta, int]:
    """Minimise F convex objectives over the same rows from `start`, each with its own weights of the rows, [F, R].

    Returns weights and biases in one vector, see `_unpacked`, and the number of iterations.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    folds = len(weights_FR)

    def objective(theta: Theta) -> tuple[float, Theta]:
        check()
        weight_FKS, _ = _unpacked(theta, folds, num_classes)
        log_loss_FR, residual_FRK = _log_loss(_logits(theta, rows.features, folds, num_classes), rows.labels)
        residual_FRK *= weights_FR[:, :, None]
        columns = residual_FRK.transpose(1, 0, 2).reshape(len(rows.labels), -1)  # [R, F * K]: one product for all
        gradient = (columns.T @ rows.features).astype(np.float64).ravel() + penalty * weight_FKS.ravel()
        loss = float((weights_FR * log_loss_FR).sum(dtype=np.float64))
        loss += penalty / 2 * float(np.square(weight_FKS).sum())
        return loss, np.concatenate([gradient, columns.sum(0, dtype=np.float64)])

    if start is None:
        start = np.zeros(folds * num_classes * (rows.features.shape[1] + 1))
    gradient, progress = (1e-4, 1e-6) if roughly else (1e-6, 1e-10)
    options = {"maxiter": MAX_ITERATIONS, "maxcor": 20, "gtol": gradient, "ftol": progress}
    with threadpool_limits(1, user_api="blas"):  # numpy's and scipy's threads wait for each other: three times slower
        found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return found.x, int(found.nit)


def _logits(theta: Theta, features_RS: Features, folds: int, num_classes: int) -> Features:
    """Return the logits of every fold, float32 [F, R, K]."""
    weight_FKS, bias_FK = _unpacked(theta, folds, num_classes)
    flat = weight_FKS.reshape(folds * num_classes, -1).astype(np.float32)
    logits_RFK = (features_RS @ flat.T).reshape(len(features_RS), folds, num_classes)
    return logits_RFK.transpose(1, 0, 2) + bias_FK[:, None, :].astype(np.float32)


def _log_loss(logits_FRK: Features, labels_R: NDArray[np.int64]) -> tuple[Features, Features]:
    """Return the cross-entropy of each row, [F, R], and its gradient in the logits, [F, R, K]."""
    each = np.arange(len(labels_R))
    shifted_FRK = logits_FRK - logits_FRK.max(2, keepdims=True)
    powers_FRK = np.exp(shifted_FRK)
    sums_FR = powers_FRK.sum(2)
    log_loss_FR = np.log(sums_FR) - shifted_FRK[:, each, labels_R]
    residual_FRK = powers_FRK / sums_FR[:, :, None]
    residual_FRK[:, each, labels_R] -= 1
    return log_loss_FR, residual_FRK


def _unpacked(theta: Theta, folds: int, num_classes: int) -> tuple[Theta, Theta]:
    """Return the weights [F, K, S] and the biases [F, K]."""
    biases = folds * num_classes
    return theta[:-biases].reshape(folds, num_classes, -1), theta[-biases:].reshape(folds, num_classes)
