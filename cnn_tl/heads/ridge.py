"""Ridge regression: all penalties from one eigendecomposition, each image left out once.

Shapes as in problem.py; R rows are V views of N images, S is the rank.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.arrays import Array, Arrays, compute
from cnn_tl.heads.calibration import best_factor
from cnn_tl.heads.folds import holds_whole_class, indispensable, members_of
from cnn_tl.heads.problem import Features, FittedHead, HeldOut, Problem
from cnn_tl.heads.scaling import TEMPERED, scaling_of
from cnn_tl.recipe.resolved import RidgeHead

PENALTIES = [10.0 ** (half / 2) for half in range(-8, 5)]
"""In units of the mean variance of a direction: 1 halves an average direction."""


def fit_ridge(problem: Problem, settings: RidgeHead) -> FittedHead:
    """Fit one-versus-rest targets (1, 0) by weighted ridge regression (Hoerl and Kennard 1970).

    The penalty maximises the likelihood of the images when they are left out, exactly and with all their views and
    their whole group at once, by the hat matrix (Golub, Heath and Wahba 1979, sec. 1). A group with all images of a
    class is not left out; if each group is such a one, images are left out one by one. The scores, which are near 0
    and 1, are multiplied by the factor that calibrates the left-out scores, so that the softmax gives probabilities.

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
        weight_KD, bias_K, held_out, facts = compute(
            raw_RD.size, problem.device, lambda arrays: _fit(problem, arrays, features_RD, image_R, settings)
        )
    kept = _without_indispensable(problem, held_out) if problem.hold_out else None
    return replace(scaling.folded(weight_KD, bias_K, facts), held_out=kept), held_out


def _without_indispensable(problem: Problem, held_out: HeldOut) -> HeldOut | None:
    """Drop images that are alone in their class, or whose group is: no fit without them knows the class."""
    spared_n = ~indispensable(problem.labels, problem.groups)[held_out.images]
    if spared_n.all():
        return held_out
    return HeldOut(held_out.images[spared_n], held_out.logits[spared_n]) if spared_n.any() else None


def _fit(
    problem: Problem, arrays: Arrays, features: Features, image_R: NDArray[np.int64], settings: RidgeHead
) -> tuple[NDArray[np.float64], NDArray[np.float64], HeldOut, dict[str, Any]]:
    """Return weight [K, D] and bias [K] for scaled features, the logits of left-out images, and facts."""
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
    groups, held_n = _groups_to_leave_out(problem)
    labels_n, weights_n = problem.labels[held_n], problem.image_weights[held_n]
    best: tuple[float, float, float, Array] | None = None
    for penalty in [settings.penalty] if settings.penalty is not None else PENALTIES:
        problem.check()
        shrink_S = values_S / (values_S + penalty * unit)
        scores_nK = _left_out(arrays, left_RS, shrink_S, y_RK, root_R1, len(problem.labels)) + mean_K
        if problem.groups is not None:
            for images, scores in _groups_left_out(arrays, left_RS, shrink_S, y_RK, root_R1, groups, len(scores_nK)):
                scores_nK[arrays.put(images)] = scores + mean_K
            scores_nK = scores_nK[arrays.put(held_n)]
        factor, likelihood = best_factor(scores_nK, labels_n, weights_n, arrays)
        if best is None or likelihood > best[0]:
            best = likelihood, penalty, factor, scores_nK
    assert best is not None
    _, penalty, factor, scores_nK = best
    right_n = arrays.host(xp.argmax(scores_nK, 1)) == labels_n
    weight_KD = (y_RK.T @ left_RS) * (xp.sqrt(values_S) / (values_S + penalty * unit)) @ right_SD
    bias_K = mean_K - weight_KD @ mean_D
    facts = {
        "kind": "ridge", "penalty": penalty, "penalty_chosen": settings.penalty is None,
        "left_out_accuracy": float(np.average(right_n, weights=weights_n)),
        "factor": factor,
    }  # fmt: skip
    held_out = HeldOut(held_n, arrays.host(factor * scores_nK))
    return arrays.host(factor * weight_KD), arrays.host(factor * bias_K), held_out, facts


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


def _groups_to_leave_out(problem: Problem) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return the groups of several images that are left out, [G, M] for each size M, and all images left out, [n]."""
    each = np.arange(len(problem.labels))
    if problem.groups is None:
        return [], each
    members = members_of(problem.groups)
    whole = holds_whole_class(problem.labels, members)
    if whole.all():
        return [], each
    left_out = [images for images, has_class in zip(members, whole, strict=True) if not has_class]
    by_size: dict[int, list[NDArray[np.int64]]] = defaultdict(list)
    for images in left_out:
        by_size[len(images)].append(images)
    return [np.stack(own) for size, own in by_size.items() if size > 1], np.sort(np.concatenate(left_out))


_AT_ONCE = 2**22
"""Numbers of the eigenvectors of groups that are worked through together."""


def _groups_left_out(
    arrays: Arrays, left_RS: Array, shrink_S: Array, y_RK: Array, root_R1: Array,
    groups: Sequence[NDArray[np.int64]], images: int,
) -> Iterator[tuple[NDArray[np.int64], Array]]:  # fmt: skip
    """Yield images of some groups, [m], and the scores [m, K], minus the mean, of their plain views by fits without.

    With the rows Z of a group, the hat matrix is Z Z': if they are more than the dimensions S, Woodbury's identity
    solves for S + 1 unknowns instead.

    Args:
        groups: the images of the groups of each size, [G, M].
    """
    xp, views, dimensions = arrays.xp, len(y_RK) // images, left_RS.shape[1] + 1
    scaled_RS = xp.concatenate([left_RS * xp.sqrt(shrink_S), root_R1 / float(xp.sum(root_R1**2)) ** 0.5], 1)
    residual_RK = y_RK - (left_RS * shrink_S) @ (left_RS.T @ y_RK)
    for images_GM in groups:
        rows_Gn = (np.arange(views)[:, None] * images + images_GM[:, None, :]).reshape(len(images_GM), -1)
        at_once = max(1, _AT_ONCE // (rows_Gn.shape[1] * dimensions))
        for start in range(0, len(rows_Gn), at_once):
            some = slice(start, start + at_once)
            rows_gn = arrays.put(rows_Gn[some])
            wrong_gnK = _solved(arrays, scaled_RS[rows_gn], residual_RK[rows_gn])
            plain_gM = rows_gn[:, : images_GM.shape[1]]
            scores_gMK = (y_RK[plain_gM] - wrong_gnK[:, : images_GM.shape[1]]) / root_R1[plain_gM]
            yield images_GM[some].ravel(), scores_gMK.reshape(-1, y_RK.shape[1])


def _solved(arrays: Arrays, z_GnS: Array, residual_GnK: Array) -> Array:
    """Return (1 + 1e-9 - Z Z')^-1 times the residuals, [G, n, K]."""
    turned_GSn, one = arrays.xp.swapaxes(z_GnS, 1, 2), 1 + 1e-9
    rows, dimensions = z_GnS.shape[1:]
    solve = arrays.xp.linalg.solve
    if rows <= dimensions:
        return solve(arrays.put(np.eye(rows) * one) - z_GnS @ turned_GSn, residual_GnK)
    kept_GSS = arrays.put(np.eye(dimensions) * one) - turned_GSn @ z_GnS
    return (residual_GnK + z_GnS @ solve(kept_GSS, turned_GSn @ residual_GnK)) / one
