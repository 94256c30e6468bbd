"""Where patches cover an image, and the map of what that costs: occlusion without knowing what the model runs in.

Zeiler and Fergus 2014, sec. 4.2. Neither torch nor a network is needed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Pixels
from cnn_tl.data.views.transforms import mean_colour

AT_ONCE = 32
LEAST_EVIDENCE = 0.5
"""Log-odds by which an image must be ahead of a grey one: evidence that is not there cannot be located."""

EMPTY = "empty map: nothing in the image is evidence for the class"
NO_EVIDENCE = "a grey image scores as high for this class: no evidence here"

PATCH, STRIDE = 0.2, 0.08
"""Side of the patch and step between two patches, as shares of the image's sides."""

Box = tuple[slice, slice]
"""Rows and columns that are covered."""


def cost_map(
    cost: Callable[[Sequence[Box]], NDArray[np.floating]], height: int, width: int, patch: float, stride: float
) -> NDArray[np.float32]:
    """Return the mean cost of the patches that cover each pixel, [H, W].

    Args:
        cost: from up to 32 boxes to what covering each of them costs.
        patch, stride: side of the patch and step, as shares of the sides.
    """
    tops, high = _places(height, patch, stride)
    lefts, wide = _places(width, patch, stride)
    boxes = [(slice(top, top + high), slice(left, left + wide)) for top in tops for left in lefts]
    sum_HW = np.zeros((height, width), np.float32)
    times_HW = np.zeros_like(sum_HW)
    for start in range(0, len(boxes), AT_ONCE):
        some = boxes[start : start + AT_ONCE]
        for box, one in zip(some, cost(some), strict=True):
            sum_HW[box] += one
            times_HW[box] += 1
    return (sum_HW / np.maximum(times_HW, 1)).astype(np.float32)


def heat_map(
    logits: Callable[[Pixels], NDArray[np.float32]], pixels_HWC: Pixels, index: int, spec: Preprocessing
) -> NDArray[np.float32]:
    """Return by how much the log-odds of class `index` fall where the image is covered, [H, W].

    The same as `occlusion.heat_map` but for a model that takes pixels: grey is the colour nearest to the mean.

    Args:
        logits: from pixels uint8 [N, H, W, 3] to logits [N, K].
    """
    before = log_odds(logits(pixels_HWC[None]), index)

    def cost(boxes: Sequence[Box]) -> NDArray[np.floating]:
        covered_NHWC = np.repeat(pixels_HWC[None], len(boxes), axis=0)
        for image_HWC, box in zip(covered_NHWC, boxes, strict=True):
            image_HWC[box] = mean_colour(spec)
        return before - log_odds(logits(covered_NHWC), index)

    height, width, _ = pixels_HWC.shape
    return cost_map(cost, height, width, PATCH, STRIDE)


def caveat(heat: NDArray[np.floating], evidence: float) -> str | None:
    """Say why a heat map must not be trusted; None if there is no reason.

    Args:
        heat: the map, any shape.
        evidence: log-odds of its class for the image, less those for a grey image.
    """
    if not heat.max() > 0:
        return EMPTY
    return NO_EVIDENCE if evidence < LEAST_EVIDENCE else None


def log_odds(logits_NK: NDArray[np.float32], index: int) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of a class, [N]."""
    others_NK = np.delete(logits_NK.astype(np.float64), index, axis=1)
    score_N: NDArray[np.float64] = logits_NK[:, index] - np.logaddexp.reduce(others_NK, axis=1)
    return score_N


def _places(side: int, patch: float, stride: float) -> tuple[list[int], int]:
    """Return where patches begin along a side, so that the first and the last touch its ends, and their length."""
    length = min(max(round(patch * side), 1), side)
    step = min(max(stride * side, 1.0), length)
    count = math.ceil((side - length) / step) + 1
    return [round(place) for place in np.linspace(0, side - length, count).tolist()], length
