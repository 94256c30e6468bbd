"""What a fitted head computes from features, without torch: for the result of a run and for predictions alike.

An image's logits depend neither on the images beside it nor on the number of threads or the library that multiplies
matrices. Such libraries add up in an order that depends on the sizes of both matrices, so that float32 differs in its
last bits. Here products are summed in float64, whose error has a bound; wherever that bound leaves two float32 numbers
possible, which is rare, the sum is repeated exactly. `head_modules.py` computes the same in torch.

Shapes: M images, D features, H hidden units, K classes, R rows of a bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.statistics import VOTE_SMALLEST_SHARE, VOTE_TEMPERATURE, VOTE_TIE

Features = NDArray[np.float32]
Forward = Callable[[Features], Features]

_ROWS = 256
"""Images that are computed at once, so that memory stays flat."""

_UNIT_ROUNDOFF = 2.0**-53

_ERF = np.frompyfunc(math.erf, 1, 1)
"""The error function: numpy has none, and an installation without torch has no scipy."""


def forward_of(spec: Mapping[str, Any] | None, tensors: Mapping[str, NDArray[Any]], num_classes: int) -> Forward:
    """Return the function from features, float32 [M, D], to logits, float32 [M, K].

    Args:
        spec: None for one linear layer; else the kind of classifier, as in a `FittedHead`.
        tensors: by their names inside the classifier.

    Raises:
        KeyError, TypeError, ValueError: the tensors do not fit the spec or the number of classes.
    """
    if spec is None:
        made, outputs = linear(tensors["weight"], tensors["bias"]), len(tensors["weight"])
    elif spec["kind"] == "mlp":
        made, outputs = _perceptron(tensors), len(tensors["output.weight"])
    elif spec["kind"] == "knn":
        votes_RK = tensors["votes"]
        made, outputs = _neighbours(tensors["bank"], votes_RK, int(spec["neighbours"])), votes_RK.shape[1]
    else:
        raise ValueError(f"there is no classifier of the kind {spec['kind']!r}")
    if outputs != num_classes:
        raise ValueError(f"the classifier gives {outputs} logits for {num_classes} classes")
    return made


def linear(weight_KD: Features, bias_K: Features) -> Forward:
    """Return the function features [M, D] @ weight.T + bias, each output rounded once to float32.

    A product of two float32 numbers is exact in float64. A sum of n numbers in any order is at most n u times the sum
    of their sizes away (Higham 2002, "Accuracy and stability of numerical algorithms", sec. 4.2; u = 2^-53), and that
    sum is at most the product of the lengths of both vectors.

    Raises:
        ValueError: weight and bias do not fit.
    """
    if weight_KD.ndim != 2 or bias_K.shape != weight_KD.shape[:1]:
        raise ValueError(f"a weight of {weight_KD.shape} and a bias of {bias_K.shape}")
    right_DK, bias = weight_KD.astype(np.float64).T, bias_K.astype(np.float64)
    lengths_K, per_length = np.linalg.norm(right_DK, axis=0), 2 * (len(right_DK) + 2) * _UNIT_ROUNDOFF

    def block(features_MD: Features) -> Features:
        left_MD = features_MD.astype(np.float64)
        sums_MK = left_MD @ right_DK + bias
        error_MK = per_length * (np.linalg.norm(left_MD, axis=1)[:, None] * lengths_K + np.abs(bias))
        low_MK, high_MK = (sums_MK - error_MK).astype(np.float32), (sums_MK + error_MK).astype(np.float32)
        for m, k in np.argwhere((low_MK != high_MK) & np.isfinite(sums_MK)):
            sums_MK[m, k] = math.fsum([*(left_MD[m] * right_DK[:, k]).tolist(), bias[k]])
        return sums_MK.astype(np.float32)

    def forward(features_MD: Features) -> Features:
        with np.errstate(over="ignore", invalid="ignore"):  # the caller sees what is not finite
            return _by_blocks(block, features_MD, len(weight_KD))

    return forward


def _perceptron(tensors: Mapping[str, NDArray[Any]]) -> Forward:
    """Return one hidden layer with GELU (Hendrycks and Gimpel 2016), by the error function."""
    hidden = linear(tensors["hidden.weight"], tensors["hidden.bias"])
    output = linear(tensors["output.weight"], tensors["output.bias"])
    if tensors["output.weight"].shape[1] != len(tensors["hidden.weight"]):
        raise ValueError("the two layers do not fit")

    def forward(features_MD: Features) -> Features:
        x_MH = hidden(features_MD).astype(np.float64)
        erf_MH = np.asarray(_ERF(x_MH / math.sqrt(2)), np.float64)
        return output((x_MH * (1 + erf_MH) / 2).astype(np.float32))

    return forward


def _neighbours(bank_RD: Features, votes_RK: Features, neighbours: int) -> Forward:
    """Return the votes of the nearest rows, weighted by exp(cosine / 0.07) (Wu et al. 2018, sec. 3.4).

    Rows as near as the last neighbour vote too. The logits are the logarithms of the shares of the votes.
    """
    if len(bank_RD) != len(votes_RK) or neighbours < 1:
        raise ValueError(f"{len(bank_RD)} rows with votes for {len(votes_RK)}, {neighbours} neighbours")
    cosines, count = linear(bank_RD, np.zeros(len(bank_RD), np.float32)), min(neighbours, len(bank_RD))
    votes = votes_RK.astype(np.float64)

    def block(features_MD: Features) -> Features:
        return np.stack([voted(cosine_R, votes, count) for cosine_R in cosines(unit(features_MD))]).astype(np.float32)

    return lambda features_MD: _by_blocks(block, features_MD, votes.shape[1])


def voted(cosine_R: Features, votes_RK: NDArray[np.float64], neighbours: int) -> NDArray[np.float64]:
    """Return the logits [K] of an image with these cosines to the rows of a bank: see `_neighbours`."""
    last = np.partition(cosine_R, -neighbours)[-neighbours]
    voting = np.flatnonzero(cosine_R >= last - np.float32(VOTE_TIE))
    strength_V = np.exp((cosine_R[voting].astype(np.float64) - cosine_R.max()) / VOTE_TEMPERATURE)  # at most 1
    votes_K: NDArray[np.float64] = (strength_V[:, None] * votes_RK[voting]).sum(0)
    return np.log(votes_K / votes_K.sum() + VOTE_SMALLEST_SHARE)  # type: ignore[no-any-return]


def _by_blocks(forward: Forward, features_MD: Features, outputs: int) -> Features:
    starts = range(0, len(features_MD), _ROWS)
    blocks = [forward(features_MD[start : start + _ROWS]) for start in starts]
    return np.concatenate(blocks) if blocks else np.empty((0, outputs), np.float32)


def unit(features_RD: Features) -> Features:
    """Return the rows, float32 [R, D], divided by their lengths."""
    lengths_R = np.linalg.norm(features_RD.astype(np.float64), axis=1, keepdims=True)
    return (features_RD / np.maximum(lengths_R, 1e-12)).astype(np.float32)  # type: ignore[no-any-return]
