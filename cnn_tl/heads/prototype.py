"""Nearest class mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.calibration import best_factor
from cnn_tl.heads.folds import indispensable, members_of
from cnn_tl.heads.problem import FittedHead, HeldOut, Problem
from cnn_tl.heads.scaling import scaling_of
from cnn_tl.recipe.resolved import PrototypeHead

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


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
    counts_K = np.bincount(problem.labels, minlength=problem.num_classes)
    scores_NK = _left_out(features_RD, means_KD, counts_K, problem) / variance
    factor = _factor(scores_NK, counts_K, problem.labels)
    bias_K = -np.square(means_KD).sum(1) * factor / variance / 2
    prior_K = np.log(problem.class_weights) if isinstance(settings.class_weights, dict) else np.zeros(len(bias_K))
    head = scaling.folded(means_KD * factor / variance, bias_K + prior_K, {"kind": "prototype", "factor": factor})
    if not problem.hold_out:
        return head
    _leave_out_groups(scores_NK, features_RD, means_KD, counts_K, problem, variance)
    images = np.flatnonzero(~indispensable(problem.labels, problem.groups))
    return replace(head, held_out=HeldOut(images, factor * scores_NK[images] + prior_K) if len(images) else None)


def _factor(scores_NK: Array, counts_K: Counts, labels_N: NDArray[np.int64]) -> float:
    """Return the factor for scores of left-out images; 1 if every image is alone in its class."""
    counts_N = counts_K[labels_N]
    if not (judged := counts_N > 1).any():
        return 1.0
    return best_factor(scores_NK[judged], labels_N[judged], (1 / counts_N)[judged])[0]


def _left_out(features_RD: Array, means_KD: Array, counts_K: Counts, problem: Problem) -> Array:
    """Return the scores [N, K] of each image's plain view, its own views left out of the mean of its class."""
    labels_N, views = problem.labels, len(problem.views)
    others_N = counts_K[labels_N] - 1
    plain_ND = features_RD[: len(labels_N)]
    views_ND = features_RD.reshape(views, len(labels_N), -1).mean(0)
    own_ND = means_KD[labels_N]
    own_ND = own_ND + (own_ND - views_ND) / np.maximum(others_N, 1)[:, None]  # the mean without the image
    scores_NK: Array = plain_ND @ means_KD.T - np.square(means_KD).sum(1) / 2
    scores_NK[np.arange(len(labels_N)), labels_N] = (plain_ND * own_ND).sum(1) - np.square(own_ND).sum(1) / 2
    return scores_NK


def _leave_out_groups(
    scores_NK: Array, features_RD: Array, means_KD: Array, counts_K: Counts, problem: Problem, variance: float
) -> None:
    """Replace the scores of images in groups of several: the whole group is left out."""
    if problem.groups is None:
        return
    labels_N = problem.labels
    plain_ND = features_RD[: len(labels_N)]
    views_ND = features_RD.reshape(len(problem.views), len(labels_N), -1).mean(0)
    for images in members_of(problem.groups):
        classes, counts = np.unique(labels_N[images], return_counts=True)
        if len(images) == 1 or (counts == counts_K[classes]).any():
            continue
        for k, count in zip(classes, counts, strict=True):
            own_D = views_ND[images[labels_N[images] == k]].sum(0)
            mean_D = (counts_K[k] * means_KD[k] - own_D) / (counts_K[k] - count)
            scores_NK[images, k] = (plain_ND[images] @ mean_D - mean_D @ mean_D / 2) / variance
