"""The nearest class mean."""

from __future__ import annotations

import numpy as np

from cnn_tl.heads.problem import FittedHead, Problem
from cnn_tl.heads.standard import standard_of
from cnn_tl.recipe_sections import Head


def fit_prototype(problem: Problem, settings: Head) -> FittedHead:
    """Fit one Gaussian a class with a shared spherical variance (Snell et al. 2017, sec. 2.3).

    Class means have no prior, so every class counts as much as another, as `class_weights: balanced` means it; weights
    that are given by name enter as a prior.

    Raises:
        DivergedError: the features are not finite.
    """
    raw_RD, picture_R = problem.stacked()
    labels_R = problem.labels[picture_R]
    standard = standard_of(raw_RD)
    features_RD = standard(raw_RD).astype(np.float64)
    means_KD = np.stack([features_RD[labels_R == k].mean(0) for k in range(problem.num_classes)])
    variance = max(float(np.square(features_RD - means_KD[labels_R]).sum(1).mean()), 1e-12)
    bias_K = -np.square(means_KD).sum(1) / (2 * variance)
    if isinstance(settings.class_weights, dict):
        bias_K = bias_K + np.log(problem.class_weights)
    return standard.folded(means_KD / variance, bias_K, {"kind": "prototype"})
