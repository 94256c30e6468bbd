"""Record a training step as a CUDA graph, and replay it.

At small batches a GPU waits for the interpreter, which launches a thousand kernels a step: resnet50 at batch 32 reaches
a third of the speed at batch 256. A replayed step is one launch. It computes the same as the recorded one: the same
kernels, on other images, with dropout drawn from the generator's seed of that step.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnn_tl.core.device import is_out_of_memory, waiting_forbidden

RECORD_AFTER = 3
"""Steps of the same shape before one is recorded: the kernels are chosen and loaded by then."""

MOST_SHAPES = 2
"""Shapes that are recorded: the batches of an epoch differ by one image (`schedule.epoch_batches`)."""

MEMORY_SHARE = 0.4
"""Maximum share of the free memory that a recorded step may take; it keeps its activations for good."""

SAME = 0.02
"""Maximum relative difference between the losses of the recorded step and of the step itself."""

_TOO_LARGE = "its activations would take too much of the memory"

Shape = tuple[torch.Size, torch.Size]
Backward = Callable[[Tensor, Tensor, int], Tensor]
"""Input, target probabilities and number of images -> the sums of the losses [1 + A]; adds gradients."""


@dataclass(frozen=True)
class Held:
    """Buffers that a forward pass updates, and copies of their earlier values."""

    buffers: list[Tensor]
    copies: list[Tensor]

    def take(self) -> None:
        """Copy the buffers' values."""
        _copy(self.copies, self.buffers)

    def restore(self) -> None:
        """Give the buffers their earlier values."""
        _copy(self.buffers, self.copies)


def _copy(into: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy tensors in one launch for each dtype; a clone of each buffer would be a hundred launches in each step."""
    with torch.no_grad():
        for dtype in {tensor.dtype for tensor in into}:
            chosen = [(a, b) for a, b in zip(into, values, strict=True) if a.dtype == dtype]
            torch._foreach_copy_([a for a, _ in chosen], [b for _, b in chosen])


class _Recording:
    """A recorded step: its graph, the tensors that it reads, and those that it writes.

    Args:
        pool: memory for what is needed within a step; recordings that are not replayed at the same time share it.
    """

    def __init__(self, model: nn.Module, backward: Backward, x: Tensor, targets_NK: Tensor, pool: Any) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._x, self._targets_NK = torch.empty_like(x).copy_(x), targets_NK.clone()
        self._graph = torch.cuda.CUDAGraph()
        for parameter in self._parameters:
            parameter.grad = None  # so that backward writes gradients instead of adding to them
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._losses = backward(self._x, self._targets_NK, len(x))
        self._gradients = [parameter.grad for parameter in self._parameters]

    def replay(self, x: Tensor, targets_NK: Tensor) -> Tensor:
        """Compute gradients and losses for other images."""
        self._x.copy_(x)
        self._targets_NK.copy_(targets_NK)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._losses.clone()


class StepRecorder:
    """Records the steps of a training loop, one graph for each of a few shapes; other shapes run as they are.

    Args:
        model: in training mode; its parameters and buffers keep their memory.
        backward: computes one step.
        note: receives a message if steps cannot be recorded.
    """

    def __init__(self, model: nn.Module, backward: Backward, note: Callable[[str], None]) -> None:
        self._model, self._backward, self._note = model, backward, note
        self._seen: Counter[Shape] = Counter()
        self._recordings: dict[Shape, _Recording] = {}
        self._pool: Any = None
        self._refused = False

    def replays(self, x: Tensor, targets_NK: Tensor) -> bool:
        """Return whether a step of this shape has been recorded."""
        return (x.shape, targets_NK.shape) in self._recordings

    def replay(self, x: Tensor, targets_NK: Tensor) -> Tensor:
        """Set the gradients of the step, and return the sums of its losses [1 + A]; seed the generators before."""
        return self._recordings[x.shape, targets_NK.shape].replay(x, targets_NK)

    def is_due(self, x: Tensor, targets_NK: Tensor, micro_batch: int) -> bool:
        """Count a step that was computed, and return whether the same step is to be recorded now."""
        if self._refused or len(self._recordings) == MOST_SHAPES or micro_batch < len(x):
            return False
        shape = x.shape, targets_NK.shape
        self._seen[shape] += 1
        return self._seen[shape] >= RECORD_AFTER

    def record(self, x: Tensor, targets_NK: Tensor, losses: Tensor, held: Held, seed: Callable[[], None]) -> Tensor:
        """Record a step that was just computed, and compute it again by the recording; return its losses [1 + A].

        If it cannot be recorded, or computes something else, the step stays as it was computed.

        Args:
            losses: what the step gave.
            held: the buffers before the step.
            seed: seeds the generators for the step.
        """
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        gradients = [parameter.grad for parameter in parameters]
        stream = torch.cuda.current_stream(x.device)
        after = [buffer.clone() for buffer in held.buffers]
        reason = self._why_not(x, targets_NK, seed)
        if reason is None:
            try:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                recording = _Recording(self._model, self._backward, x, targets_NK, self._pool)
                self._recordings[x.shape, targets_NK.shape] = recording
                held.restore()
                seed()
                again = self.replay(x, targets_NK)
                if torch.allclose(again, losses, rtol=SAME, atol=SAME * len(x)):
                    return again
                reason = "a recorded step gives another loss"
            except (RuntimeError, torch.OutOfMemoryError) as error:
                reason = str(error).splitlines()[0]
                _recover(x.device, stream)
        self._refuse(reason)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        Held(held.buffers, after).restore()
        return losses

    def _why_not(self, x: Tensor, targets_NK: Tensor, seed: Callable[[], None]) -> str | None:
        """Return why the step cannot be recorded; None if it can.

        The step is run once more where waiting for the GPU is an error, which it is while a step is recorded.
        """
        for parameter in self._model.parameters():
            parameter.grad = None
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(x.device)
        free, before = torch.cuda.mem_get_info(x.device)[0], torch.cuda.memory_allocated(x.device)
        seed()
        try:
            with waiting_forbidden():
                self._backward(x, targets_NK, len(x))
        except RuntimeError as error:
            if is_out_of_memory(error):
                return _TOO_LARGE
            return f"the network waits for the GPU ({str(error).splitlines()[0]})"
        activations = torch.cuda.max_memory_allocated(x.device) - before
        if not self._recordings and activations > MEMORY_SHARE * free:  # a second recording shares the memory
            return _TOO_LARGE
        return None

    def drop(self) -> bool:
        """Give the memory of all recordings back, and record no more; return whether there were any."""
        had = bool(self._recordings)
        self._recordings.clear()
        self._refused = True
        return had

    def _refuse(self, reason: str) -> None:
        self.drop()
        self._note(f"steps are not recorded as a CUDA graph: {reason}")
        gc.collect()
        torch.cuda.empty_cache()


def _recover(device: torch.device, stream: torch.cuda.Stream) -> None:
    """Undo what a recording that failed may leave behind: its stream, and the state of the random generator."""
    torch.cuda.set_stream(stream)
    index = torch.cuda.current_device() if device.index is None else device.index
    with suppress(RuntimeError):
        fresh = torch.Generator(device).graphsafe_get_state()
        torch.cuda.default_generators[index].graphsafe_set_state(fresh)
