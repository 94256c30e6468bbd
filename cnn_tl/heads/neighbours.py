"""Nearest neighbours: the weighted votes of the most similar training images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.heads.problem import Features, FittedHead, Problem
from cnn_tl.networks.head_forward import unit
from cnn_tl.recipe.resolved import KnnHead


def fit_neighbours(problem: Problem, settings: KnnHead) -> FittedHead:
    """Keep the training images; the nearest ones vote, weighted by exp(cosine similarity / 0.07).

    The method is that of Wu et al. 2018, sec. 3.4. The logits are the logarithms of the shares of the votes; votes are
    weighted by class.

    No answer depends on the order of equally near neighbours, which differs between libraries: all images as near as
    the last neighbour vote too. Images with the same features are one neighbour with all their votes, so that their
    votes have the same weight to the last bit.

    Raises:
        DivergedError: the features are not finite.
    """
    raw_RD, image_R = problem.stacked()
    bank_RD, row_of = _distinct(unit(raw_RD))
    votes_RK = np.zeros((len(bank_RD), problem.num_classes), np.float32)
    labels_R = problem.labels[image_R]
    np.add.at(votes_RK, (row_of, labels_R), problem.class_weights[labels_R])
    count = min(settings.neighbours, len(bank_RD))
    facts = {"kind": "knn", "neighbours": count}
    return FittedHead({"bank": bank_RD, "votes": votes_RK}, problem.num_classes, dict(facts), facts)


def _distinct(rows_RD: Features) -> tuple[Features, NDArray[np.int64]]:
    """Return the distinct rows in order, and for each row the index of its distinct row."""
    row_bytes = rows_RD.dtype.itemsize * rows_RD.shape[1]
    whole_R = np.ascontiguousarray(rows_RD).view(np.dtype((np.void, row_bytes)))[:, 0]
    _, first, which = np.unique(whole_R, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return rows_RD[first[order]], np.argsort(order)[which]
