"""Occlusion: a grey patch slides over the image, and where it lowers the score most the model was looking.

Zeiler and Fergus 2014, sec. 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.explaining.methods.covering import PATCH, STRIDE, Box, cost_map
from cnn_tl.explaining.model import Subject, log_odds


def heat_map(subject: Subject, x_1CHW: Tensor, index: int, *, patch: float = PATCH, stride: float = STRIDE) -> Tensor:
    """Return by how much the log-odds of class `index` fall where the image is covered, [H, W].

    Log-odds, as the probability of a sure model hardly moves. Grey is the mean of the preprocessing. Each pixel
    gets the mean over the patches that cover it; below zero the class was more probable without it.
    """
    before = log_odds(subject.logits(x_1CHW), index)

    def cost(boxes: Sequence[Box]) -> NDArray[np.floating]:
        covered = x_1CHW.repeat(len(boxes), 1, 1, 1)
        for number, (rows, columns) in enumerate(boxes):
            covered[number, :, rows, columns] = 0
        drops: NDArray[np.floating] = (before - log_odds(subject.logits(covered), index)).cpu().numpy()
        return drops

    height, width = x_1CHW.shape[-2:]
    return torch.from_numpy(cost_map(cost, height, width, patch, stride)).to(x_1CHW.device)
