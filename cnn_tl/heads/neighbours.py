"""Nearest neighbours: the weighted votes of the most similar training images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of
from cnn_tl.heads.folds import HELD_OUT_IMAGES, indispensable, members_of
from cnn_tl.heads.problem import Features, FittedHead, HeldOut, Problem
from cnn_tl.networks.head_forward import unit, voted
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
    held_out = _left_out(problem, bank_RD, row_of, votes_RK, settings.neighbours) if problem.hold_out else None
    return FittedHead({"bank": bank_RD, "votes": votes_RK}, problem.num_classes, dict(facts), facts, held_out)


def _left_out(
    problem: Problem, bank_RD: Features, row_of: NDArray[np.int64], votes_RK: Features, neighbours: int
) -> HeldOut | None:
    """Return the logits of some images, without all rows of each one's group; a row that others share remains.

    They are drawn at random: with at least one image of each class, rare classes would count too much.

    Args:
        row_of: the row of the bank of each view of each image, [V * N].
    """
    labels_N, views = problem.labels, len(problem.views)
    spared = np.flatnonzero(~indispensable(labels_N, problem.groups))
    if not len(spared):
        return None
    drawn = np.random.default_rng(seed_of(problem.seed, "held out")).permutation(spared)
    images = np.sort(drawn[:HELD_OUT_IMAGES])
    row_VN, votes, uses_R = row_of.reshape(views, -1), votes_RK.astype(np.float64), np.bincount(row_of)
    members = None if problem.groups is None else dict(enumerate(members_of(problem.groups)))
    place_N = None if problem.groups is None else np.unique(problem.groups, return_inverse=True)[1]
    logits_nK = np.empty((len(images), problem.num_classes))
    for start in range(0, len(images), _AT_ONCE):
        problem.check()
        some = images[start : start + _AT_ONCE]
        cosines_mR = bank_RD[row_VN[0, some]] @ bank_RD.T
        for place, (image, cosine_R) in enumerate(zip(some, cosines_mR, strict=True), start):
            own = np.array([image]) if members is None or place_N is None else members[int(place_N[image])]
            rows, counts = np.unique(row_VN[:, own], return_counts=True)
            before = votes[rows].copy()
            np.subtract.at(votes, (row_VN[:, own], labels_N[own]), problem.class_weights[labels_N[own]])
            gone = rows[counts == uses_R[rows]]
            cosine_R[gone] = -np.inf  # copies of the others' votes would take a gigabyte for many classes
            logits_nK[place] = voted(cosine_R, votes, min(neighbours, len(votes) - len(gone)))
            votes[rows] = before
    return HeldOut(images, logits_nK)


_AT_ONCE = 256
"""Images whose cosines to all rows are computed together."""


def _distinct(rows_RD: Features) -> tuple[Features, NDArray[np.int64]]:
    """Return the distinct rows in order, and for each row the index of its distinct row."""
    row_bytes = rows_RD.dtype.itemsize * rows_RD.shape[1]
    whole_R = np.ascontiguousarray(rows_RD).view(np.dtype((np.void, row_bytes)))[:, 0]
    _, first, which = np.unique(whole_R, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return rows_RD[first[order]], np.argsort(order)[which]
