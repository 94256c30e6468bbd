"""Ridge regression: all penalties from one eigendecomposition, each image left out once.

Shapes as in problem.py; R rows are V views of N images, S is the rank.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.calibration import best_factor
from cnn_tl.heads.problem import FittedHead, Problem
from cnn_tl.heads.scaling import standard_of
from cnn_tl.recipe.resolved import RidgeHead

PENALTIES = [10.0 ** (half / 2) for half in range(-8, 5)]
"""In units of the mean variance of a direction: 1 halves an average direction."""

Array = NDArray[np.float64]


def fit_ridge(problem: Problem, settings: RidgeHead) -> FittedHead:
    """Fit one-versus-rest targets (1, 0) by weighted ridge regression (Hoerl and Kennard 1970).

    The penalty maximises the likelihood of the images when they are left out, exactly and with all their views at once,
    by the hat matrix (Golub, Heath and Wahba 1979, sec. 1). The scores, which are near 0 and 1, are multiplied by the
    factor that calibrates the left-out scores, so that the softmax gives probabilities.

    Raises:
        DivergedError: the features or the fitted head are not finite.
    """
    raw_RD, image_R = problem.stacked()
    standard = standard_of(raw_RD)
    features_RD = standard(raw_RD).astype(np.float64)
    weights_R = problem.image_weights[image_R]
    targets_RK = np.eye(problem.num_classes)[problem.labels[image_R]]
    mean_D, mean_K = (np.average(rows, axis=0, weights=weights_R) for rows in (features_RD, targets_RK))
    root_R1 = np.sqrt(weights_R)[:, None]
    x_RD, y_RK = root_R1 * (features_RD - mean_D), root_R1 * (targets_RK - mean_K)
    left_RS, values_S, right_SD = _decomposed(x_RD)
    unit = float(values_S.sum()) / x_RD.shape[1]
    candidates = [settings.penalty] if settings.penalty is not None else PENALTIES
    tried = []
    for penalty in candidates:
        problem.check()
        shrink_S = values_S / (values_S + penalty * unit)
        scores_NK = _left_out(left_RS, shrink_S, y_RK, root_R1, len(problem.labels)) + mean_K
        tried.append((*best_factor(scores_NK, problem.labels, problem.image_weights), scores_NK))
    best = max(range(len(tried)), key=lambda index: tried[index][1])
    factor, _, scores_NK = tried[best]
    right_N = scores_NK.argmax(1) == problem.labels
    weight_KD = (y_RK.T @ left_RS) * (np.sqrt(values_S) / (values_S + candidates[best] * unit)) @ right_SD
    bias_K = mean_K - weight_KD @ mean_D
    facts = {
        "kind": "ridge", "penalty": candidates[best], "penalty_chosen": settings.penalty is None,
        "left_out_accuracy": float(np.average(right_N, weights=problem.image_weights)),
        "factor": factor,
    }  # fmt: skip
    return standard.folded(factor * weight_KD, factor * bias_K, facts)


def _decomposed(x_RD: Array) -> tuple[Array, Array, Array]:
    """Return U [R, S], the eigenvalues [S] and V [S, D] of x = U sqrt(values) V, from the smaller Gram matrix."""
    rows, dimensions = x_RD.shape
    if rows <= dimensions:
        values, left = np.linalg.eigh(x_RD @ x_RD.T)
        kept = values > values[-1] * 1e-12
        values, left = values[kept], left[:, kept]
        return left, values, (left / np.sqrt(values)).T @ x_RD
    values, right = np.linalg.eigh(x_RD.T @ x_RD)
    kept = values > values[-1] * 1e-12
    values, right = values[kept], right[:, kept]
    return x_RD @ right / np.sqrt(values), values, right.T


def _left_out(left_RS: Array, shrink_S: Array, y_RK: Array, root_R1: Array, images: int) -> Array:
    """Return the scores [N, K], minus the mean, of each image's plain view by the fit without that image."""
    views = len(y_RK) // images
    fitted_RK = (left_RS * shrink_S) @ (left_RS.T @ y_RK)
    by_image = (views, images)
    left_NVS = left_RS.reshape(*by_image, -1).transpose(1, 0, 2)
    hat_NVV = (left_NVS * shrink_S) @ left_NVS.transpose(0, 2, 1)
    # the weighted mean is fitted too: each row contributes its share of the total weight
    root_NV = root_R1[:, 0].reshape(by_image).T
    hat_NVV = hat_NVV + root_NV[:, :, None] * root_NV[:, None, :] / float(np.square(root_R1).sum())
    residual_NVK = (y_RK - fitted_RK).reshape(*by_image, -1).transpose(1, 0, 2)
    identity = np.eye(views) * (1 + 1e-9)
    wrong_NVK = np.linalg.solve(identity - hat_NVV, residual_NVK)
    plain_NK = y_RK.reshape(*by_image, -1)[0] - wrong_NVK[:, 0]
    return plain_NK / root_NV[:, :1]  # type: ignore[no-any-return]
