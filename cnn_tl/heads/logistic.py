"""Multinomial logistic regression by L-BFGS, with a penalty chosen by cross-validation.

The optimum lies in the span of the images. So the cross-validation takes place in the principal axes of its images:
rotating changes neither the problem nor the penalty. These axes are uncorrelated, so the curvature along each is known,
and a few steps suffice. They precondition the fit on all images as well, in all features if these images do not span
them; that fit starts from the mean of the folds.

Shapes as in problem.py; R rows are V views of N images, S the dimensions of a fit, F folds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays, compute
from cnn_tl.heads.fold_fits import fit_folds
from cnn_tl.heads.folds import first_folds, stratified_folds, stratified_sample
from cnn_tl.heads.penalty_path import MAX_ITERATIONS, Axes, PenaltyPath, principal_axes
from cnn_tl.heads.problem import Features, FittedHead, HeldOut, Problem
from cnn_tl.heads.scaling import TEMPERED, scaling_of
from cnn_tl.heads.whole_fit import Rows, fit_all
from cnn_tl.recipe.resolved import LbfgsHead

STRONGEST, FIRST, WEAKEST = 8, 1, -10
"""Penalties are tried in half powers of ten, 10 ** (half / 2): from FIRST to weaker ones, then to stronger ones."""

WORTH = 1e-3
"""The minimum improvement of the log loss by a weaker penalty. Without mistakes, ever weaker ones would win."""

FOLDS = 5
CROSS_VALIDATION_IMAGES = 1_000
"""The penalty is chosen on at most about this many held-out images; twice as many took twice as long and were no
better."""

NEARLY_ALL = 0.8
"""The share of the images in the sample from which the fits of its folds are as good as the final one."""

WITHOUT_FOLDS = 0.1
"""The penalty if every class has only one image, or one group, so that none can be left out."""


def fit_logistic(problem: Problem, settings: LbfgsHead) -> FittedHead:
    """Fit multinomial logistic regression by L-BFGS (Nocedal and Wright, Numerical Optimization, ch. 7).

    Minimises the weighted mean cross-entropy + penalty / 2 * |W|^2 over scaled features; the bias is not
    penalised. If no penalty is given, stratified cross-validation chooses the one with the lowest log loss: all views
    of an image, and all images of a group, are in the same fold, and held-out images are evaluated by their view
    without augmentation.

    Raises:
        DivergedError: the features or the fitted head are not finite.
    """
    return logistic_with_held_out(problem, *problem.stacked(), settings)[0]


def logistic_with_held_out(
    problem: Problem, raw_RD: Features, image_R: NDArray[np.int64], settings: LbfgsHead
) -> tuple[FittedHead, HeldOut | None]:
    """Fit on stacked views; also return the logits of the images that cross-validation held out, if it took place.

    Where the sample is a small part of the images, its fits are worse than the final one; the logits that the head
    keeps are then of fits to nearly all images.
    """
    from threadpoolctl import threadpool_limits

    scaling = scaling_of(raw_RD, TEMPERED)
    labels_R = problem.labels[image_R]
    weights_R = problem.image_weights[image_R].astype(np.float32)
    rows = Rows(scaling(raw_RD), labels_R, weights_R)
    sample = _sample(problem, image_R)
    with threadpool_limits(1, user_api="blas"):
        size = raw_RD.size * problem.num_classes
        theta, judged, held_out, facts = compute(
            size, problem.device, lambda arrays: _fit(problem, arrays, rows, sample, settings.penalty)
        )
    return replace(scaling.folded(theta[:, :-1], theta[:, -1], facts), held_out=held_out), judged


def _fit(
    problem: Problem, arrays: Arrays, rows: Rows, sample: _Sample, penalty: float | None
) -> tuple[NDArray[np.float64], HeldOut | None, HeldOut | None, dict[str, Any]]:
    """Return theta of the scaled features, [K, D + 1], logits of images held out from the sample and all, and facts."""
    facts: dict[str, Any] = {"kind": "lbfgs", "penalty_chosen": penalty is None}
    axes = principal_axes(arrays, rows.features[sample.rows_n])
    path: PenaltyPath | None = None
    judged: HeldOut | None = None
    if penalty is None:
        penalty, path, chosen = _choose_penalty(problem, arrays, rows, sample, axes)
        facts |= chosen
        judged = None if path is None else _held_out(path, sample)
    if path is None:
        path = _path_to(penalty, problem, arrays, rows, sample, axes)
    whole = fit_all(problem, arrays, rows, axes, path, penalty)
    facts |= {
        "penalty": penalty, "iterations": whole.evaluations, "converged": whole.evaluations < MAX_ITERATIONS,
    }  # fmt: skip
    held_out = judged
    if problem.hold_out and (judged is None or len(sample.rows_n) < NEARLY_ALL * len(rows.labels)):
        held_out = fit_folds(problem, arrays, rows, whole, penalty)
    return whole.theta, judged, held_out if problem.hold_out else None, facts


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
    groups_n = None if problem.groups is None else problem.groups[kept]
    fold_N[kept] = stratified_folds(labels_N[kept], FOLDS, problem.seed, groups_n)
    fold_N[np.bincount(labels_N)[labels_N] == 1] = FOLDS  # alone in its class: never held out
    fold_R = fold_N[image_R]
    rows_n = np.flatnonzero(fold_R >= 0)
    return _Sample(rows_n, fold_R[rows_n], rows_n < len(labels_N))


def _choose_penalty(
    problem: Problem, arrays: Arrays, rows: Rows, sample: _Sample, axes: Axes
) -> tuple[float, PenaltyPath | None, dict[str, Any]]:
    """Return the penalty with the lowest log loss in cross-validation, the fits with it, and facts about the choice.

    The penalty found for the rows of a fold is scaled to all rows: it is added to a mean, while the prior that it
    represents does not grow with the number of rows.
    """
    used_F = _folds_held_out(sample)
    if not len(used_F):
        return WITHOUT_FOLDS, None, {"cross_validation_log_loss": None, "penalty_at_edge": False}
    weights_n = rows.weights[sample.rows_n]
    weights_n /= weights_n.mean()
    fitted_Fn = (sample.fold_n != used_F[:, None]) * weights_n
    fitted_Fn /= fitted_Fn.sum(1, keepdims=True)
    held_out_Fn = (sample.fold_n == used_F[:, None]) & sample.plain_n

    def new_path() -> PenaltyPath:
        return PenaltyPath(problem, arrays, axes, rows.labels[sample.rows_n], fitted_Fn)

    half, log_loss, path = _best_of_folds(new_path, weights_n, held_out_Fn)
    share = float((fitted_Fn > 0).sum(1).mean()) / len(rows.labels)
    facts = {"cross_validation_log_loss": log_loss, "penalty_at_edge": half in (STRONGEST, WEAKEST)}
    return 10 ** (half / 2) * share, path, facts


def _held_out(path: PenaltyPath, sample: _Sample) -> HeldOut:
    """Return the logits of each image that a fold holds out, by the fit of this fold."""
    logits_nK = np.empty((len(sample.rows_n), path.objective.shape[1]))
    used_F = _folds_held_out(sample)
    used = sample.plain_n & np.isin(sample.fold_n, used_F)
    for index, fold in enumerate(used_F):
        of_fold = np.flatnonzero(used & (sample.fold_n == fold))
        logits_nK[of_fold] = path.logits(index, of_fold)
    return HeldOut(sample.rows_n[used], logits_nK[used])


def _folds_held_out(sample: _Sample) -> NDArray[np.int64]:
    """Return the folds that are held out: the first ones with about CROSS_VALIDATION_IMAGES images together, else all.

    So hundreds of classes, whose sample is larger, do not take several times as long.
    """
    return first_folds(sample.fold_n[sample.plain_n], FOLDS, CROSS_VALIDATION_IMAGES)


def _best_of_folds(
    new_path: Callable[[], PenaltyPath], weights_n: Features, held_out_Fn: NDArray[np.bool_]
) -> tuple[int, float, PenaltyPath]:
    """Return the best penalty for the rows of a fold, as twice its power of ten, and the log loss of held-out images.

    All folds are fitted at once as one separable problem, so that the features are read only once.
    """
    losses: dict[int, float] = {}
    best: Array | None = None

    def fit(path: PenaltyPath, half: int) -> None:
        nonlocal best
        path.fit(10 ** (half / 2))
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


def _path_to(penalty: float, problem: Problem, arrays: Arrays, rows: Rows, sample: _Sample, axes: Axes) -> PenaltyPath:
    """Fit the sample as one, from strong penalties to the given one."""
    weights_n = rows.weights[sample.rows_n]
    path = PenaltyPath(problem, arrays, axes, rows.labels[sample.rows_n], (weights_n / weights_n.sum())[None])
    for half in range(FIRST, WEAKEST * 10, -1):
        if 10 ** (half / 2) <= penalty * 1.01:
            break
        path.fit(10 ** (half / 2))
    path.fit(penalty)
    return path
