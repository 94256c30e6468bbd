"""One update of the weights. It returns without waiting for the device: whoever reads the loss waits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnn_tl.training.step.gradients import Gradients, memory_for


@dataclass(frozen=True)
class Update:
    """Updates the weights of a model, step by step, without waiting for the device.

    Attributes:
        clip_grad: maximum norm of the gradients of all parameters together.
    """

    model: nn.Module
    optimizer: Optimizer
    gradients: Gradients
    clip_grad: float

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of each group of parameters: `lr` times the group's factor."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]

    def __call__(self, x: Tensor, targets_NK: Tensor, step: int, *, first: int = 0, total: int | None = None) -> Tensor:
        """Update the weights once; return the sums of the losses and the norm of the gradients, [1 + A + 1].

        Args:
            x, targets_NK, step, first, total: as in `Gradients.add`.

        Raises:
            ResourceError, UsageError: as `Gradients.add` does; or the optimizer's state does not fit into memory.
        """
        self.optimizer.zero_grad()
        losses = self.gradients.add(x, targets_NK, step, first=first, total=total)
        with memory_for("the optimizer's state", "set train.optimizer: sgd, or use a smaller --model"):
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
            self.optimizer.step()
        return torch.cat([losses, norm.reshape(1)])
