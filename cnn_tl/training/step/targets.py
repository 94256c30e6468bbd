"""What the images of a step are to be told: their classes as probabilities, smoothed, mixed, weighted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.core.seeds import seed_of
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.heads import class_weights
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Session
from cnn_tl.training.loop.batches import Step
from cnn_tl.training.step.loss import targets
from cnn_tl.training.step.mixup import mixed


class Targets:
    """The targets of a run's training images."""

    def __init__(self, session: Session[LoopRecipe]) -> None:
        self._session = session
        self._classes = session.manifest.classes

    def of(self, images: Sequence[ImageRecord]) -> Tensor:
        """Return the probabilities of the classes [N, K], on the device."""
        labels_N = torch.tensor([image.label for image in images], device=self._session.device)
        return targets(labels_N, len(self._classes), self._session.recipe.train.label_smoothing)

    def mixed(self, step: Step, number: int) -> tuple[Tensor, Tensor]:
        """Return what the model takes for a process's images of a step, [N, ...], and their targets [N, K].

        If the recipe says so they are mixed, each with any image of the whole step, whatever process has that.
        """
        recipe, world = self._session.recipe, self._session.world
        targets_NK = self.of(step.images)
        if recipe.augment is None or not (recipe.augment.mixup or recipe.augment.cutmix):
            return step.x, targets_NK
        whole = world.gather_rows(step.x, step.total), world.gather_rows(targets_NK, step.total)
        if not step.counts:
            return step.x, targets_NK
        x, mixed_NK = mixed(*whole, recipe.augment, seed_of(recipe.seed, "mix", number))
        own = slice(step.first, step.first + len(step.images))
        return x[own], mixed_NK[own]

    def class_weights(self, labels: NDArray[np.int64]) -> Tensor | None:
        """Return how much each class counts, float32 [K], 1 on average over the images; None: all count alike."""
        setting = self._session.recipe.train.class_weights
        if setting == "none":
            return None
        weights = class_weights(setting, labels, self._classes, key="train.class_weights")
        weights = weights / weights[labels].mean()  # so that the learning rate means what it means without weights
        return torch.tensor(weights, dtype=torch.float32, device=self._session.device)
