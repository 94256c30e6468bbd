"""The gradients of one step, computed from the batch in as many parts as memory requires.

Running out of memory does not end a run: the batch is halved until a part fits, and the gradients of the parts are
added. So the effective batch size is that of the recipe, and the result is that of `train.micro_batch` of this size.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cnn_tl.core.device import Precision, autocast, is_out_of_memory, seed_generators
from cnn_tl.core.errors import ResourceError, UsageError
from cnn_tl.core.processes import ALONE, World
from cnn_tl.core.seeds import seed_of
from cnn_tl.training.step.loss import Loss
from cnn_tl.training.step.recorder import Held, StepRecorder


@dataclass
class Gradients:
    """Computes the gradients of one step after another.

    Attributes:
        micro_batch: images in one forward pass; halved for good when memory runs out.
        note: receives a message when that happens.
        world: the processes that share each step; with several, `model` is the result of `World.parallel`.
        aux_weight: weight of the loss of each auxiliary classifier, if the model has any.
        recorded: record steps as CUDA graphs where that is possible (step/recorder.py).
    """

    model: nn.Module
    loss: Loss
    device: torch.device
    precision: Precision
    seed: int
    micro_batch: int
    note: Callable[[str], None]
    world: World = ALONE
    aux_weight: float = 0.0
    recorded: bool = False
    _fits: bool = False
    _copies: Held | None = None
    _recorder: StepRecorder | None = None

    def use(self, model: nn.Module) -> None:
        """Use another wrapper of the same model; other parameters may train now, and need more memory."""
        self.model, self._fits, self._copies = model, False, None
        may_record = self.recorded and self.device.type == "cuda" and self.world.is_alone
        self._recorder = StepRecorder(model, self._backward, self.note) if may_record else None

    def add(self, x: Tensor, targets_NK: Tensor, step: int, *, first: int = 0, total: int | None = None) -> Tensor:
        """Add the gradients of the step's mean loss to the parameters, and return the sums of its losses, [1 + A].

        The first sum is of the classifier; those of A auxiliary classifiers follow, unweighted. Each process has a
        share of the step, and all get the same gradients and sums.

        Args:
            x: input of the model, [N, ...].
            step: with the seed, decides all randomness inside the network (dropout, stochastic depth).
            first: index of this process's first image in the whole step.
            total: number of images in the whole step.

        Raises:
            ResourceError: a single image does not fit.
            UsageError: batch normalisation cannot train on one value.
        """
        total = total or len(x)
        if not self.world.is_alone and not self._fits:
            self._find_fitting_size(x, targets_NK, total)
        if self._recorder is not None and self._recorder.replays(x, targets_NK):
            seed_generators(self.device, seed_of(self.seed, "step", step, first))
            return self._recorder.replay(x, targets_NK)
        held = Held([], []) if self._fits else self._moving_buffers()  # if it fits, running out ends the run
        while (loss := self._try(x, targets_NK, step, first, total)) is None:
            self._undo_attempt(held)
        if self._recorder is not None and self._recorder.is_due(x, targets_NK, self.micro_batch):
            seed = seed_of(self.seed, "step", step, first)
            loss = self._recorder.record(x, targets_NK, loss, held, lambda: seed_generators(self.device, seed))
        return self.world.sum(loss)

    def loss_with(
        self,
        model: nn.Module,
        weights: dict[str, Tensor],
        x: Tensor,
        targets_NK: Tensor,
        step: int,
        *,
        first: int = 0,
        total: int | None = None,
    ) -> Tensor:
        """Return the sum of the step's losses [1] with other weights, but the same randomness.

        Call it after `add`, which finds out how many images fit into memory.

        Args:
            model: the model itself, not the result of `World.parallel`.
            weights: parameters and buffers by name; running statistics among them are updated.
            x, targets_NK, step, first, total: see `add`.
        """
        sums = []
        with torch.no_grad():
            for part, targets in self._parts(x, targets_NK, total or len(x)):
                seed_generators(self.device, seed_of(self.seed, "step", step, first))
                with autocast(self.device, self.precision):
                    outputs = functional_call(model, weights, (part,))
                logits_NK = outputs if isinstance(outputs, Tensor) else outputs[0]
                sums.append(self.loss(logits_NK, targets).sum())
                first += len(part)
        return self.world.sum(torch.stack(sums).sum(0, keepdim=True))

    def _find_fitting_size(self, x: Tensor, targets_NK: Tensor, total: int) -> None:
        """Make trial passes in all processes until the batch fits in each, then exchange gradients once; undo it all.

        If memory runs out during an exchange, all is lost. And after its first exchange DDP regroups the gradients,
        which then add up in another order: with that exchange made here, all steps are alike, also the first after a
        resume.
        """
        held = self._moving_buffers()
        with _local_batch_norm(self.model):  # attempts differ between processes, and so would their exchanges
            fits = False
            while not fits:
                with self.world.together(), self.no_sync():
                    found = self._try(x, targets_NK, 0, 0, total) is not None
                self._undo_attempt(held)
                fits = all(self.world.gather(found))
                self.micro_batch = min(self.world.gather(self.micro_batch))
            self._fits = True
            self._in_parts(x, targets_NK, 0, 0, total)
        self._undo_attempt(held)

    def _moving_buffers(self) -> Held:
        modules = (module for module in self.model.modules() if module.training)
        buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
        if self._copies is None or list(map(id, self._copies.buffers)) != list(map(id, buffers)):
            self._copies = Held(buffers, [torch.empty_like(buffer) for buffer in buffers])
        self._copies.take()
        return self._copies

    def _try(self, x: Tensor, targets_NK: Tensor, step: int, first: int, total: int) -> Tensor | None:
        """Return the sums of the losses [1 + A]; None if memory ran out."""
        try:
            return self._in_parts(x, targets_NK, step, first, total)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if self._recorder is not None and self._recorder.drop():
                return None
            size = min(self.micro_batch, len(x))
            if self._fits:
                raise ResourceError(f"out of memory during training; set train.micro_batch below {size}") from error
            if size == 1:
                raise ResourceError(
                    f"not even one image of {tuple(x.shape[1:])} fits into the memory of {self.device}; "
                    f"use a smaller --image-size or --model{or_the_cpu(self.device)}"
                ) from error
            self.micro_batch = -(-size // 2)
            self.note(f"out of memory: the images of a step pass the network {self.micro_batch} at a time from here on")
            return None  # leaving this frame frees the traceback, which holds all activations

    def _in_parts(self, x: Tensor, targets_NK: Tensor, step: int, first: int, total: int) -> Tensor:
        losses = []
        parts = self._parts(x, targets_NK, total)
        for number, (part, targets) in enumerate(parts, 1):
            seed_generators(self.device, seed_of(self.seed, "step", step, first))
            with self.no_sync() if number < len(parts) else nullcontext():
                losses.append(self._backward(part, targets, total))
            first += len(part)
        return torch.stack(losses).sum(0)

    def _backward(self, x: Tensor, targets_NK: Tensor, total: int) -> Tensor:
        """Add the gradients of one part of a step, and return the sums of its losses, [1 + A]."""
        with autocast(self.device, self.precision):
            outputs = self._forward(x)
        each = (outputs,) if isinstance(outputs, Tensor) else outputs
        loss = torch.stack([self.loss(logits_NK, targets_NK).sum() for logits_NK in each])
        whole = loss[0] + self.aux_weight * loss[1:].sum()
        own = whole / total * self.world.size  # the exchange takes the mean over the processes
        own.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _parts(self, x: Tensor, targets_NK: Tensor, total: int) -> list[tuple[Tensor, Tensor]]:
        """Divide the images into the same number of parts in every process, as synchronised BatchNorm needs.

        A process with one image less than another may therefore repeat its last one, with weight 0.
        """
        count = parts_in_step(total, self.world.size, self.micro_batch)
        if (lacking := count - len(x)) > 0:
            x = torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])])
            targets_NK = torch.cat([targets_NK, targets_NK.new_zeros(lacking, targets_NK.shape[1])])
        return list(zip(x.tensor_split(count), targets_NK.tensor_split(count), strict=True))

    def no_sync(self) -> AbstractContextManager[None]:
        """Do not exchange gradients with other processes inside the body."""
        return nullcontext() if self.world.is_alone else self.model.no_sync()  # type: ignore[operator]

    def _forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits [N, K], followed by those of auxiliary classifiers if the model has any."""
        try:
            return self.model(x)  # type: ignore[no-any-return]
        except ValueError as error:
            if not is_single_value_error(error):
                raise
            raise UsageError(
                "batch normalisation cannot train on a single image of this size; "
                "use a larger --batch-size, train.micro_batch or --image-size"
            ) from error

    def _undo_attempt(self, held: Held) -> None:
        """Undo the traces of an attempt: gradients, running statistics, memory."""
        self.model.zero_grad()
        held.restore()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def release(self) -> None:
        """Give the memory of recorded steps and gradients back, at the end of a loop."""
        self._recorder = self._copies = None
        self.model.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def parts_in_step(total: int, processes: int, micro_batch: int) -> int:
    """Return the number of parts into which each process divides its share of a step of `total` images."""
    most = -(-total // processes)
    return -(-most // micro_batch)


@contextmanager
def _local_batch_norm(model: nn.Module) -> Iterator[None]:
    """Stop BatchNorm from exchanging statistics with other processes inside the body."""
    exchanging = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm) and m.training]
    for module in exchanging:
        module.eval()
    try:
        yield
    finally:
        for module in exchanging:
            module.train()


@contextmanager
def memory_for(what: str, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error of the body into one line with advice, for code that cannot halve its batch.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(f"out of memory for {what}; {advice}") from error


def or_the_cpu(device: torch.device) -> str:
    """Return the end of advice to someone whose device lacks memory: there is more of it beside a GPU."""
    return "" if device.type == "cpu" else ", or --device cpu"


def is_single_value_error(error: ValueError) -> bool:
    """Return whether BatchNorm refused to train on a single value per channel."""
    return "more than 1 value per channel" in str(error)
