"""One step's gradients, from as many parts of the batch as the memory needs.

Out of memory is no end: the batch passes the network in halves, and again, while the gradients add up, so the effective
batch stays what the recipe says, and the result what it would have been with `train.micro_batch` of that size.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnn_tl.errors import ResourceError, UsageError
from cnn_tl.runtime import Precision, autocast, seed_of
from cnn_tl.training.loss import Loss

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@dataclass
class Gradients:
    """Computes the gradients of one step after another.

    Attributes:
        micro_batch: pictures that pass the network at once; it halves when memory runs out, and stays there.
        note: hears of that.
    """

    model: nn.Module
    loss: Loss
    device: torch.device
    precision: Precision
    seed: int
    micro_batch: int
    note: Callable[[str], None]
    no_sync: Callable[[], AbstractContextManager[None]] = nullcontext

    def add(self, x: Tensor, targets_NK: Tensor, step: int, *, first: int = 0, total: int | None = None) -> Tensor:
        """Add the gradients of the batch's mean loss to the parameters', and return the sum of its losses.

        Args:
            x: what the model takes, [N, ...].
            step: with the seed it decides all randomness inside the network (dropout, stochastic depth).
            first, total: where this process's pictures begin among all of the step's, and how many those are.

        Raises:
            ResourceError: a single picture does not fit.
            UsageError: batch normalisation cannot train on one value.
        """
        held = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        while (loss := self._try(x, targets_NK, step, first, total or len(x))) is None:
            self._forget(held)
        return loss

    def _try(self, x: Tensor, targets_NK: Tensor, step: int, first: int, total: int) -> Tensor | None:
        """Return the sum of the losses; None if memory ran out."""
        try:
            return self._in_parts(x, targets_NK, step, first, total)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size = min(self.micro_batch, len(x))
            if size == 1:
                raise ResourceError(
                    f"not even one picture of {tuple(x.shape[1:])} fits into the memory of {self.device}; "
                    "use a smaller --image-size or --model, or --device cpu"
                ) from error
            self.micro_batch = -(-size // 2)
            return None  # the traceback, which keeps every activation alive, goes with this frame

    def _in_parts(self, x: Tensor, targets_NK: Tensor, step: int, first: int, total: int) -> Tensor:
        count = -(-len(x) // self.micro_batch)
        losses = []
        for number, (part, targets) in enumerate(
            zip(x.tensor_split(count), targets_NK.tensor_split(count), strict=True)
        ):
            torch.manual_seed(seed_of(self.seed, "step", step, first))
            with self.no_sync() if number + 1 < count else nullcontext():
                with autocast(self.device, self.precision):
                    logits_NK = self._forward(part)
                loss = self.loss(logits_NK, targets).sum()
                (loss / total).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            first += len(part)
        return torch.stack(losses).sum()

    def _forward(self, x: Tensor) -> Tensor:
        try:
            return self.model(x)  # type: ignore[no-any-return]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                "batch normalisation cannot train on a single picture of this size; "
                "use a larger --batch-size or --image-size, or --set model.bn=eval"
            ) from error

    def _forget(self, held: list[tuple[Tensor, Tensor]]) -> None:
        """Undo what the failed attempt has left: gradients, running statistics, memory."""
        self.model.zero_grad()
        with torch.no_grad():
            for buffer, before in held:
                buffer.copy_(before)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.note(f"out of memory: the pictures of a step pass the network {self.micro_batch} at a time from here on")


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is how CUDA, MPS or the CPU says that memory has run out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)
