"""The votes of the nearest training pictures."""

from __future__ import annotations

import numpy as np

from cnn_tl.heads.problem import Features, FittedHead, Problem
from cnn_tl.recipe_sections import Head

TEMPERATURE = 0.07
SMALLEST_SHARE = 1e-6
"""What a class without a single vote gets, so that the logits stay finite."""


def fit_neighbours(problem: Problem, settings: Head) -> FittedHead:
    """Keep the training pictures; a picture's neighbours by cosine vote, weighted by exp(similarity / 0.07).

    (Wu et al. 2018, sec. 3.4.) The logits are the logarithms of the shares of the votes, each of which counts as much
    as its class does.

    Raises:
        DivergedError: the features are not finite.
    """
    assert settings.neighbours is not None, "the recipe is resolved"
    raw_RD, picture_R = problem.stacked()
    bank_RD = _unit(raw_RD)
    votes_RK = np.zeros((len(bank_RD), problem.num_classes), np.float32)
    labels_R = problem.labels[picture_R]
    votes_RK[np.arange(len(labels_R)), labels_R] = problem.class_weights[labels_R]
    count = min(settings.neighbours, len(bank_RD))

    def logits(features_MD: Features) -> Features:
        return np.concatenate([_logits(part, bank_RD, votes_RK, count) for part in _in_parts(features_MD)])

    facts = {"kind": "knn", "neighbours": count}
    return FittedHead({"bank": bank_RD, "votes": votes_RK}, logits, {"kind": "knn", "neighbours": count}, facts)


def _logits(features_MD: Features, bank_RD: Features, votes_RK: Features, count: int) -> Features:
    similarity_MR = _unit(features_MD) @ bank_RD.T
    nearest_MC = np.argsort(-similarity_MR, axis=1, kind="stable")[:, :count]
    chosen_MC = np.take_along_axis(similarity_MR, nearest_MC, axis=1)
    strength_MC = np.exp((chosen_MC - chosen_MC[:, :1]) / TEMPERATURE)  # the nearest has 1: no overflow
    shares_MK = np.einsum("mc,mck->mk", strength_MC, votes_RK[nearest_MC])
    return np.log(shares_MK / shares_MK.sum(1, keepdims=True) + SMALLEST_SHARE).astype(np.float32)  # type: ignore[no-any-return]


def _unit(features_RD: Features) -> Features:
    lengths_R = np.linalg.norm(features_RD, axis=1, keepdims=True)
    return (features_RD / np.maximum(lengths_R, 1e-12)).astype(np.float32)  # type: ignore[no-any-return]


def _in_parts(features_MD: Features, rows: int = 512) -> list[Features]:
    return [features_MD[start : start + rows] for start in range(0, len(features_MD), rows)] or [features_MD]
