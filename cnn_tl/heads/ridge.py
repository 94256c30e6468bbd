"""Ridge regression: all penalties from one eigendecomposition, each image left out once.

Shapes as in problem.py; R rows are V views of N images, S is the rank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays, compute
from cnn_tl.heads.calibration import best_factor
from cnn_tl.heads.problem import Features, FittedHead, HeldOut, Problem
from cnn_tl.heads.scaling import TEMPERED, scaling_of
from cnn_tl.recipe.resolved import RidgeHead

PENALTIES = [10.0 ** (half / 2) for half in range(-8, 5)]
"""In units of the mean variance of a direction: 1 halves an average direction."""


def fit_ridge(problem: Problem, settings: RidgeHead) -> FittedHead:
    """Fit one-versus-rest targets (1, 0) by weighted ridge regression (Hoerl and Kennard 1970).

    The penalty maximises the likelihood of the images when they are left out, exactly and with all their views at once,
    by the hat matrix (Golub, Heath and Wahba 1979, sec. 1). The scores, which are near 0 and 1, are multiplied by the
    factor that calibrates the left-out scores, so that the softmax gives probabilities.

    Raises:
        DivergedError: the features or the fitted head are not finite.
    """
    return ridge_with_held_out(problem, *problem.stacked(), settings)[0]


def ridge_with_held_out(
    problem: Problem, raw_RD: Features, image_R: NDArray[np.int64], settings: RidgeHead
) -> tuple[FittedHead, HeldOut]:
    """Fit on stacked views; also return the logits of the images when they are left out."""
    from threadpoolctl import threadpool_limits

    scaling = scaling_of(raw_RD, TEMPERED)
    features_RD = scaling(raw_RD)
    with threadpool_limits(1, user_api="blas"):  # the same bits on any machine, and no threads that wait by turning
        weight_KD, bias_K, logits_NK, facts = compute(
            raw_RD.size, problem.device, lambda arrays: _fit(problem, arrays, features_RD, image_R, settings)
        )
    return scaling.folded(weight_KD, bias_K, facts), HeldOut(np.arange(len(logits_NK)), logits_NK)


def _fit(
    problem: Problem, arrays: Arrays, features: Features, image_R: NDArray[np.int64], settings: RidgeHead
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], dict[str, Any]]:
    """Return weight [K, D] and bias [K] for scaled features, the logits of left-out images [N, K], and facts."""
    xp = arrays.xp
    features_RD = arrays.cast(arrays.put(features), arrays.double)
    weights_R = problem.image_weights[image_R]
    targets_RK = arrays.put(np.eye(problem.num_classes)[problem.labels[image_R]])
    root_R1 = arrays.put(np.sqrt(weights_R)[:, None])
    weights_R1 = arrays.put(weights_R[:, None])
    mean_D, mean_K = (xp.sum(rows * weights_R1, 0) / xp.sum(weights_R1, 0) for rows in (features_RD, targets_RK))
    x_RD, y_RK = root_R1 * (features_RD - mean_D), root_R1 * (targets_RK - mean_K)
    left_RS, values_S, right_SD = _decomposed(arrays, x_RD)
    unit = float(xp.sum(values_S)) / x_RD.shape[1]
    best: tuple[float, float, float, Array] | None = None
    for penalty in [settings.penalty] if settings.penalty is not None else PENALTIES:
        problem.check()
        shrink_S = values_S / (values_S + penalty * unit)
        scores_NK = _left_out(arrays, left_RS, shrink_S, y_RK, root_R1, len(problem.labels)) + mean_K
        factor, likelihood = best_factor(scores_NK, problem.labels, problem.image_weights, arrays)
        if best is None or likelihood > best[0]:
            best = likelihood, penalty, factor, scores_NK
    assert best is not None
    _, penalty, factor, scores_NK = best
    right_N = arrays.host(xp.argmax(scores_NK, 1)) == problem.labels
    weight_KD = (y_RK.T @ left_RS) * (xp.sqrt(values_S) / (values_S + penalty * unit)) @ right_SD
    bias_K = mean_K - weight_KD @ mean_D
    facts = {
        "kind": "ridge", "penalty": penalty, "penalty_chosen": settings.penalty is None,
        "left_out_accuracy": float(np.average(right_N, weights=problem.image_weights)),
        "factor": factor,
    }  # fmt: skip
    return arrays.host(factor * weight_KD), arrays.host(factor * bias_K), arrays.host(factor * scores_NK), facts


def _decomposed(arrays: Arrays, x_RD: Array) -> tuple[Array, Array, Array]:
    """Return U [R, S], the eigenvalues [S] and V [S, D] of x = U sqrt(values) V, from the smaller Gram matrix."""
    rows, dimensions = x_RD.shape
    wide = rows <= dimensions
    values, vectors = arrays.eigh(x_RD @ x_RD.T if wide else x_RD.T @ x_RD)
    kept = values > values[-1] * 1e-12
    values_S, vectors_S = arrays.put(values[kept]), arrays.put(vectors[:, kept])
    scales_S = arrays.xp.sqrt(values_S)
    if wide:
        return vectors_S, values_S, (vectors_S / scales_S).T @ x_RD
    return x_RD @ vectors_S / scales_S, values_S, vectors_S.T


def _left_out(arrays: Arrays, left_RS: Array, shrink_S: Array, y_RK: Array, root_R1: Array, images: int) -> Array:
    """Return the scores [N, K], minus the mean, of each image's plain view by the fit without that image."""
    xp = arrays.xp
    views = len(y_RK) // images
    fitted_RK = (left_RS * shrink_S) @ (left_RS.T @ y_RK)
    by_image = (views, images)
    left_NVS = xp.swapaxes(left_RS.reshape(*by_image, -1), 0, 1)
    hat_NVV = (left_NVS * shrink_S) @ xp.swapaxes(left_NVS, 1, 2)
    # the weighted mean is fitted too: each row contributes its share of the total weight
    root_NV = root_R1[:, 0].reshape(by_image).T
    hat_NVV = hat_NVV + root_NV[:, :, None] * root_NV[:, None, :] / float(xp.sum(root_R1**2))
    residual_NVK = xp.swapaxes((y_RK - fitted_RK).reshape(*by_image, -1), 0, 1)
    kept_NVV = arrays.put(np.eye(views) * (1 + 1e-9)) - hat_NVV
    wrong_NVK = residual_NVK / kept_NVV if views == 1 else xp.linalg.solve(kept_NVV, residual_NVK)
    plain_NK = y_RK.reshape(*by_image, -1)[0] - wrong_NVK[:, 0]
    return plain_NK / root_NV[:, :1]
