"""Nearest class mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.calibration import best_factor
from cnn_tl.heads.problem import FittedHead, Problem
from cnn_tl.heads.scaling import scaling_of
from cnn_tl.recipe.resolved import PrototypeHead

Array = NDArray[np.float64]


def fit_prototype(problem: Problem, settings: PrototypeHead) -> FittedHead:
    """Fit one Gaussian per class with a shared spherical variance (Snell et al. 2017, sec. 2.3).

    Features are correlated, so the variance does not determine the confidence. Instead, a factor maximises the
    likelihood of images that are left out of the mean of their class, with all their views at once.

    Class means have no prior, so all classes have the same weight, as with `class_weights: balanced`; weights given by
    name become a prior.

    Raises:
        DivergedError: the features are not finite.
    """
    raw_RD, image_R = problem.stacked()
    labels_R = problem.labels[image_R]
    scaling = scaling_of(raw_RD)
    features_RD = scaling(raw_RD).astype(np.float64)
    means_KD = np.stack([features_RD[labels_R == k].mean(0) for k in range(problem.num_classes)])
    variance = max(float(np.square(features_RD - means_KD[labels_R]).sum(1).mean()), 1e-12)
    problem.check()
    factor = _factor(features_RD, means_KD, problem, variance)
    bias_K = -np.square(means_KD).sum(1) * factor / variance / 2
    if isinstance(settings.class_weights, dict):
        bias_K = bias_K + np.log(problem.class_weights)
    return scaling.folded(means_KD * factor / variance, bias_K, {"kind": "prototype", "factor": factor})


def _factor(features_RD: Array, means_KD: Array, problem: Problem, variance: float) -> float:
    """Return the factor for scores divided by the variance; 1 if every image is alone in its class."""
    labels_N, views = problem.labels, len(problem.views)
    each, counts_K = np.arange(len(labels_N)), np.bincount(labels_N, minlength=problem.num_classes)
    others_N = counts_K[labels_N] - 1
    if not (judged := others_N > 0).any():
        return 1.0
    plain_ND = features_RD[: len(labels_N)]
    views_ND = features_RD.reshape(views, len(labels_N), -1).mean(0)
    own_ND = means_KD[labels_N]
    own_ND = own_ND + (own_ND - views_ND) / np.maximum(others_N, 1)[:, None]  # the mean without the image
    scores_NK = plain_ND @ means_KD.T - np.square(means_KD).sum(1) / 2
    scores_NK[each, labels_N] = (plain_ND * own_ND).sum(1) - np.square(own_ND).sum(1) / 2
    as_much_N = 1 / counts_K[labels_N]
    return best_factor(scores_NK[judged] / variance, labels_N[judged], as_much_N[judged])[0]
