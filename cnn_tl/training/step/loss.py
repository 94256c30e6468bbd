"""What a training step makes smaller: one loss an image, so that it can be summed over any parts of a batch.

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_tl.recipe.resolved import LoopTrain

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [N, K] and target probabilities [N, K] -> the loss of each image [N]."""

_LEAST_DOUBT = 1e-7
"""What is left to 1 - p at least in the focal loss, about the distance of the float32 below 1; with it goes a log p
as small, so that the loss moves by less than that."""


def targets(labels_N: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return target probabilities [N, K], a share `smoothing` of them spread evenly (Szegedy et al. 2016, sec. 7)."""
    return F.one_hot(labels_N, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def make_loss(settings: LoopTrain, class_weights_K: Tensor | None) -> Loss:
    """Return the loss that the recipe names.

    Args:
        class_weights_K: a factor for each class; None weighs all alike.
    """
    gamma = settings.focal_gamma

    def loss(logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
        log_p_NK = torch.log_softmax(logits_NK.float(), dim=1)
        if gamma:  # Lin et al. 2017, eq. 4, for each class of a soft target
            # no class is certain: where p rounds to 1, a gamma below 1 has an infinite slope
            log_p_NK = log_p_NK * (1 - log_p_NK.exp()).clamp(min=_LEAST_DOUBT) ** gamma
        if class_weights_K is not None:
            log_p_NK = log_p_NK * class_weights_K
        return -(targets_NK * log_p_NK).sum(1)

    return loss
