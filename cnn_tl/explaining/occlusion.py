"""Occlusion: a grey patch slides over the picture, and where it lowers the score most the model was looking.

Zeiler and Fergus 2014, sec. 3.1 and figure 6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cnn_tl.explaining.subject import BATCH, Subject, log_odds

PATCH, STRIDE = 0.2, 0.08
"""Side of the patch and step between two patches, as shares of the picture's sides."""


def heat_map(
    subject: Subject, x_1CHW: Tensor, index: int, *, patch: float = PATCH, stride: float = STRIDE
) -> Tensor:
    """Return by how much the log-odds of class `index` fall where the picture is covered, [H, W].

    Log-odds, as the probability of a sure model hardly moves. Grey is the mean of the preprocessing. Each pixel
    gets the mean over the patches that cover it; below zero the class was more probable without it.
    """
    height, width = x_1CHW.shape[-2:]
    tops, high = _places(height, patch, stride)
    lefts, wide = _places(width, patch, stride)
    corners = [(top, left) for top in tops for left in lefts]
    before = log_odds(subject.logits(x_1CHW), index)
    drop_HW = torch.zeros(height, width, device=x_1CHW.device)
    times_HW = torch.zeros_like(drop_HW)
    for start in range(0, len(corners), BATCH):
        some = corners[start : start + BATCH]
        covered = x_1CHW.repeat(len(some), 1, 1, 1)
        for number, (top, left) in enumerate(some):
            covered[number, :, top : top + high, left : left + wide] = 0
        drops = before - log_odds(subject.logits(covered), index)
        for (top, left), drop in zip(some, drops, strict=True):
            drop_HW[top : top + high, left : left + wide] += drop
            times_HW[top : top + high, left : left + wide] += 1
    return drop_HW / times_HW.clamp(min=1)


def _places(side: int, patch: float, stride: float) -> tuple[list[int], int]:
    """Return where patches begin along a side, so that the first and the last touch its ends, and their length."""
    length = min(max(round(patch * side), 1), side)
    step = min(max(stride * side, 1.0), length)
    count = math.ceil((side - length) / step) + 1
    return [round(place) for place in torch.linspace(0, side - length, count).tolist()], length
