"""Logistic and ridge regression together: a weighted mean of their logits, which is one linear layer.

They are wrong about different images. Ridge regression is the better one where labels are wrong or features are many;
logistic regression where classes are many, since each of a ridge's scores sees all other classes as one. The share of
each follows from images that it has not seen. The guide to mode freeze has the measurements.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cnn_tl.core.statistics import log_loss
from cnn_tl.heads.logistic import logistic_with_held_out
from cnn_tl.heads.problem import FittedHead, HeldOut, Problem, linear_head
from cnn_tl.heads.ridge import ridge_with_held_out
from cnn_tl.recipe.resolved import LbfgsHead, LbfgsRidgeHead, RidgeHead

SHARES = [tenths / 10 for tenths in range(11)]
"""Of ridge regression."""

HALF, SPREAD = 0.5, 0.1
"""Mean and standard deviation of the prior of the share: few images, or ones that are hardly ever wrong, say little
about it, and the plain mean is then nearly always as good as either. 0.05 to 0.2 did equally well."""


def fit_both(problem: Problem, settings: LbfgsRidgeHead) -> FittedHead:
    """Fit logistic and ridge regression; the share of each follows from left-out images (Breiman 1996).

    It minimises the sum of their log losses + ((share - 1/2) / SPREAD)^2 / 2: the posterior mode under a normal prior.

    Raises:
        DivergedError: the features or a fitted head are not finite.
    """
    weights, stacked = settings.class_weights, problem.stacked()
    first, of_first = logistic_with_held_out(problem, *stacked, LbfgsHead(kind="lbfgs", class_weights=weights))
    second, of_second = ridge_with_held_out(problem, *stacked, RidgeHead(kind="ridge", class_weights=weights))
    share, held_out = _best_share(problem, of_first, of_second)
    weight_KD, bias_K = (
        (1 - share) * first.tensors[name].astype(np.float64) + share * second.tensors[name]
        for name in ("weight", "bias")
    )
    facts = {
        "kind": "lbfgs+ridge", "share_of_ridge": share, "held_out_log_loss": held_out,
        "converged": first.facts["converged"], "scaling_exponent": first.facts["scaling_exponent"],
        "lbfgs": first.facts, "ridge": second.facts,
    }  # fmt: skip
    return replace(linear_head(weight_KD, bias_K, facts), held_out=_mixed(share, first.held_out, second.held_out))


def _mixed(share: float, first: HeldOut | None, second: HeldOut | None) -> HeldOut | None:
    """Return the weighted mean of the logits of the images that both have held out."""
    if first is None or second is None:
        return None
    images, ours, theirs = np.intersect1d(first.images, second.images, assume_unique=True, return_indices=True)
    return HeldOut(images, (1 - share) * first.logits[ours] + share * second.logits[theirs])


def _best_share(problem: Problem, of_first: HeldOut | None, of_second: HeldOut) -> tuple[float, float | None]:
    """Return the share of the second head, and the mean log loss of left-out images with it."""
    if of_first is None:
        return HALF, None
    # ridge has left out these too: a group without some image of each class, in the sample, is one among all images
    images = of_first.images
    labels_n, weights_n = problem.labels[images], problem.image_weights[images]
    first_nK, second_nK = of_first.logits, of_second.logits[np.searchsorted(of_second.images, images)]
    losses = [log_loss((1 - share) * first_nK + share * second_nK, labels_n, weights_n) for share in SHARES]
    prior = [((share - HALF) / SPREAD) ** 2 / 2 for share in SHARES]
    best = int(np.argmin(len(images) * np.array(losses) + prior))
    return SHARES[best], losses[best]
