"""Heat maps of one class: class activation maps, occlusion, and when not to trust a map.

Occlusion works on any function to logits, so importing this file needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Pixels
from cnn_tl.data.views.transforms import mean_colour

if TYPE_CHECKING:
    from torch import Tensor

    from cnn_tl.explaining.model import ExplainedModel
    from cnn_tl.explaining.target_layers import MapLayer

CAM_METHODS = ("gradcam", "xgradcam", "layercam")

PATCH, STRIDE = 0.2, 0.08
"""Occlusion: side of the patch and step between two patches, as shares of the image's sides."""

_PATCHES_PER_BATCH = 32

LEAST_EVIDENCE = 0.5
"""Log-odds by which an image must exceed a grey one: evidence that does not exist cannot be located."""

EMPTY = "empty map: nothing in the image is evidence for the class"
NO_EVIDENCE = "a grey image scores as high for this class: no evidence here"

Box = tuple[slice, slice]
"""Rows and columns that a patch covers."""


def class_activation_map(method: str, model: ExplainedModel, layer: MapLayer, x_1CHW: Tensor, index: int) -> Tensor:
    """Return the evidence for class `index` by place, [h, w] of the layer's map, at least 0, by torchcam.

    It is 0 everywhere if the logit of the class does not depend on the layer.

    Args:
        method: one of `CAM_METHODS`.
    """
    from torchcam.methods import GradCAM, LayerCAM, XGradCAM

    extractors: dict[str, Any] = {
        "gradcam": GradCAM,  # Selvaraju et al. 2017, sec. 3: one weight per channel, its mean gradient
        "xgradcam": XGradCAM,  # Fu et al. 2020, sec. 3: gradients averaged with the activations as weights
        "layercam": LayerCAM,  # Jiang et al. 2021, sec. III: one weight per place, which suits early layers too
    }
    options = {"input_shape": tuple(x_1CHW.shape[1:]), "reshape_transform": layer.channels_first}
    with extractors[method](model.network, target_layer=layer.name, **options) as extractor:
        logits_1K = model.network(x_1CHW.detach().requires_grad_(True))
        [map_1hw] = extractor(class_idx=index, scores=logits_1K, normalized=False)
    found: Tensor = map_1hw[0].detach()
    return found


def occlusion_map(
    logits: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    x_1CHW: NDArray[np.float32],
    index: int,
    *,
    patch: float = PATCH,
    stride: float = STRIDE,
) -> NDArray[np.float32]:
    """Return by how much the log-odds of class `index` fall where a grey patch covers the image, [H, W].

    Zeiler and Fergus 2014, sec. 4.2. Log-odds, since the probability of a confident model hardly changes.
    Grey is the mean of the preprocessing. A pixel gets the mean over the patches that cover it; below 0 the class is
    more probable without it.

    Args:
        logits: from normalised images [N, 3, H, W] to logits [N, K].
    """
    uncovered = log_odds(logits(x_1CHW), index)

    def drop(boxes: Sequence[Box]) -> NDArray[np.floating]:
        covered_NCHW = np.repeat(x_1CHW, len(boxes), axis=0)
        for x_CHW, (rows, columns) in zip(covered_NCHW, boxes, strict=True):
            x_CHW[:, rows, columns] = 0
        return uncovered - log_odds(logits(covered_NCHW), index)

    height, width = x_1CHW.shape[-2:]
    return _mean_drop(drop, height, width, patch, stride)


def occlusion_map_of_pixels(
    logits: Callable[[Pixels], NDArray[np.float32]], pixels_HWC: Pixels, index: int, spec: Preprocessing
) -> NDArray[np.float32]:
    """Return the same as `occlusion_map`, for a function of pixels: grey is the nearest colour to the mean.

    Args:
        logits: from pixels uint8 [N, H, W, 3] to logits [N, K].
    """
    uncovered = log_odds(logits(pixels_HWC[None]), index)

    def drop(boxes: Sequence[Box]) -> NDArray[np.floating]:
        covered_NHWC = np.repeat(pixels_HWC[None], len(boxes), axis=0)
        for image_HWC, box in zip(covered_NHWC, boxes, strict=True):
            image_HWC[box] = mean_colour(spec)
        return uncovered - log_odds(logits(covered_NHWC), index)

    height, width, _ = pixels_HWC.shape
    return _mean_drop(drop, height, width, PATCH, STRIDE)


def caveat(heat: NDArray[np.floating], evidence: float) -> str | None:
    """Say why a heat map must not be trusted; None if there is no reason.

    Args:
        heat: the map, any shape.
        evidence: log-odds of its class for the image, minus those for a grey image.
    """
    if not heat.max() > 0:
        return EMPTY
    return NO_EVIDENCE if evidence < LEAST_EVIDENCE else None


def log_odds(logits_NK: NDArray[np.float32], index: int) -> NDArray[np.float64]:
    """Return log(p / (1 - p)) of a class, [N]."""
    others_NK = np.delete(logits_NK.astype(np.float64), index, axis=1)
    score_N: NDArray[np.float64] = logits_NK[:, index] - np.logaddexp.reduce(others_NK, axis=1)
    return score_N


def _mean_drop(
    drop: Callable[[Sequence[Box]], NDArray[np.floating]], height: int, width: int, patch: float, stride: float
) -> NDArray[np.float32]:
    """Return the mean drop over the patches that cover each pixel, [H, W].

    Args:
        drop: from boxes to the drop in log-odds when each of them is covered.
        patch, stride: side of the patch and step, as shares of the sides.
    """
    tops, patch_height = _starts(height, patch, stride)
    lefts, patch_width = _starts(width, patch, stride)
    boxes = [(slice(top, top + patch_height), slice(left, left + patch_width)) for top in tops for left in lefts]
    sum_HW = np.zeros((height, width), np.float32)
    count_HW = np.zeros_like(sum_HW)
    for start in range(0, len(boxes), _PATCHES_PER_BATCH):
        batch = boxes[start : start + _PATCHES_PER_BATCH]
        for box, value in zip(batch, drop(batch), strict=True):
            sum_HW[box] += value
            count_HW[box] += 1
    return (sum_HW / np.maximum(count_HW, 1)).astype(np.float32)


def _starts(side: int, patch: float, stride: float) -> tuple[list[int], int]:
    """Return where patches start along a side, such that the first and the last touch its ends, and their length."""
    length = min(max(round(patch * side), 1), side)
    step = min(max(stride * side, 1.0), length)
    count = math.ceil((side - length) / step) + 1
    return [round(start) for start in np.linspace(0, side - length, count).tolist()], length
