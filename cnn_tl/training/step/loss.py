"""The targets and the loss of a step: one loss per image, so that it can be summed over any parts of a batch.

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.core.seeds import seed_of
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.heads import class_weights
from cnn_tl.networks.backbone import to_device
from cnn_tl.recipe.resolved import LoopRecipe, LoopTrain
from cnn_tl.training.context import Run
from cnn_tl.training.step.mixup import mixed

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [N, K] and target probabilities [N, K] -> the loss of each image [N]."""

_MIN_ONE_MINUS_P = 1e-7
"""Minimum of 1 - p in the focal loss, about the float32 spacing just below 1. Where it applies, log p is as small, so
the loss changes by less than that."""


@dataclass(frozen=True)
class Step:
    """This process's share of a step.

    Attributes:
        images: its images of the step.
        x: input of the model for them, [N, ...].
        first: index of its first image in the whole step.
        total: number of images in the whole step.
        counts: False if the step has fewer images than there are processes: this process then takes part with an image
            of weight 0 that does not belong to the step.
    """

    images: Sequence[ImageRecord]
    x: Tensor
    first: int
    total: int
    counts: bool = True


class Targets:
    """Target probabilities of the training images, smoothed, mixed and weighted as the recipe says.

    Args:
        classes: names of the classes.
        device: where to put the targets.
    """

    def __init__(self, run: Run[LoopRecipe], classes: Sequence[str], device: torch.device) -> None:
        self._run, self._classes, self._device = run, classes, device

    def of(self, images: Sequence[ImageRecord]) -> Tensor:
        """Return the target probabilities [N, K], on the device."""
        labels_N = to_device(np.array([image.label for image in images], dtype=np.int64), self._device)
        return targets(labels_N, len(self._classes), self._run.recipe.train.label_smoothing)

    def mixed(self, step: Step, number: int) -> tuple[Tensor, Tensor]:
        """Return the model's input for this process's images of a step, [N, ...], and their targets [N, K].

        If the recipe asks for mixup or cutmix, the partner may be any image of the whole step, also of another process.
        """
        recipe, world = self._run.recipe, self._run.world
        targets_NK = self.of(step.images)
        if recipe.augment is None or not (recipe.augment.mixup or recipe.augment.cutmix):
            return step.x, targets_NK
        whole = world.gather_rows(step.x, step.total), world.gather_rows(targets_NK, step.total)
        if not step.counts:
            return step.x, targets_NK
        x, mixed_NK = mixed(*whole, recipe.augment, seed_of(recipe.seed, "mix", number))
        own = slice(step.first, step.first + len(step.images))
        return x[own], mixed_NK[own]

    def class_weights(self, labels_N: NDArray[np.int64]) -> Tensor | None:
        """Return the class weights, float32 [K], with mean 1 over the images; None: no weights."""
        setting = self._run.recipe.train.class_weights
        if setting == "none":
            return None
        weights = class_weights(setting, labels_N, self._classes, key="train.class_weights")
        weights = weights / weights[labels_N].mean()  # mean 1, so that the learning rate keeps its meaning
        return torch.tensor(weights, dtype=torch.float32, device=self._device)


def targets(labels_N: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return target probabilities [N, K], a share `smoothing` of them spread evenly (Szegedy et al. 2016, sec. 7)."""
    return F.one_hot(labels_N, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def make_loss(settings: LoopTrain, class_weights_K: Tensor | None) -> Loss:
    """Return the loss that the recipe names.

    Args:
        class_weights_K: a factor for each class; None: no weights.
    """
    gamma = settings.focal_gamma

    def loss(logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
        log_p_NK = torch.log_softmax(logits_NK.float(), dim=1)
        if gamma:  # Lin et al. 2017, eq. 4, for each class of a soft target
            # clamp: where p rounds to 1, a gamma below 1 has an infinite slope
            log_p_NK = log_p_NK * (1 - log_p_NK.exp()).clamp(min=_MIN_ONE_MINUS_P) ** gamma
        if class_weights_K is not None:
            log_p_NK = log_p_NK * class_weights_K
        return -(targets_NK * log_p_NK).sum(1)

    return loss
