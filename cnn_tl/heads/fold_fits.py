"""What fits to nearly all images say of the rest: logits that are as right, and as confident, as those of new images.

The fit of a fold is the fit to all rows, with the same prior, without the rows of the fold. It starts where the fit to
all ended, with the curvature that was found there, so 15 to 60 evaluations are enough. It ends where hardly
anything is left of what the start knew of the held-out labels: fits that start elsewhere come to the same logits.

Shapes as in problem.py; R rows, S the dimensions of a fit, F folds, P = K * (S + 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays
from cnn_tl.heads.cross_entropy import CrossEntropy
from cnn_tl.heads.folds import HELD_OUT_IMAGES, first_folds, indispensable, stratified_folds
from cnn_tl.heads.lbfgs import History, minimise
from cnn_tl.heads.penalty_path import MAX_ITERATIONS, history_size
from cnn_tl.heads.problem import HeldOut, Problem
from cnn_tl.heads.whole_fit import Rows, WholeFit

IMAGES_OF_FOLD = 1_000
LEAST_FOLDS, MOST_FOLDS = 5, 20
"""With more than five folds of so many images, the fits have up to 95% of all images, and few folds are enough."""

TOLERANCE = 3e-6
"""Of the objective, what the next step may promise where a fit ends. On three data sets, log losses then differ
by up to 0.0002 from those of exact fits; of what the start knew of the labels, less than a thousandth is left."""


def fit_folds(problem: Problem, arrays: Arrays, rows: Rows, whole: WholeFit, penalty: float) -> HeldOut | None:
    """Return the logits of images by fits without their folds; None if no image can be held out."""
    fold_N, used_F = _folds(problem)
    if not len(used_F):
        return None
    fold_R = np.tile(fold_N, len(problem.views))
    weights_FR = (fold_R != used_F[:, None]) * (rows.weights / rows.weights.sum(dtype=np.float64))
    objective = CrossEntropy(arrays, whole.features, rows.labels, weights_FR, problem.num_classes, penalty)
    shape = objective.shape
    folds, size = shape[0], shape[1] * shape[2]

    def flat(x: Array) -> tuple[Array, Array]:
        value, gradient = objective(x.reshape(shape))
        return value, gradient.reshape(x.shape)

    most = history_size(folds * size * whole.features.itemsize)
    found = minimise(
        arrays, flat, whole.inverse, arrays.zeros((folds, size), arrays.double) + whole.end,
        History(arrays, folds, size, most, objective.precision),
        tolerance=TOLERANCE, most=MAX_ITERATIONS, check=problem.check,
    )  # fmt: skip
    images = np.flatnonzero(np.isin(fold_N, used_F))
    logits_nK = np.empty((len(images), problem.num_classes))
    for fold, theta in zip(used_F, arrays.cast(found.x, objective.precision).reshape(shape), strict=True):
        of_fold = np.flatnonzero(fold_N == fold)
        logits = whole.features[arrays.put(of_fold)] @ theta[:, :-1].T + theta[:, -1]
        logits_nK[np.searchsorted(images, of_fold)] = arrays.host(logits)
    return HeldOut(images, logits_nK)


def _folds(problem: Problem) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the fold of each image, and the folds that are held out."""
    labels_N = problem.labels
    folds = min(max(LEAST_FOLDS, len(labels_N) // IMAGES_OF_FOLD), MOST_FOLDS)
    fold_N = stratified_folds(labels_N, folds, problem.seed, problem.groups)
    fold_N[indispensable(labels_N, problem.groups)] = folds
    return fold_N, first_folds(fold_N, folds, HELD_OUT_IMAGES)
