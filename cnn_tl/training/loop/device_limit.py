"""Measure how fast a training step is when its images are on the device already: the most that a run can reach.

`images_per_second` of an epoch divided by this limit shows whether anything but the step itself costs time: reading,
views, copies, or Python that launches too slowly. The steps that are measured are undone to the bit.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnn_tl.core.cpu import free_memory
from cnn_tl.core.device import is_out_of_memory
from cnn_tl.core.errors import ResourceError
from cnn_tl.core.processes import ALONE, World
from cnn_tl.training.step.recorder import RECORD_AFTER
from cnn_tl.training.step.update import Update

SECONDS = 0.5
"""Default budget of a measurement. At 20 ms a step, 20 steps are timed, which agree with each other to about 2%."""

SPARE = 256 * 2**20
"""Bytes that must be free beside twice the copies that are restored afterwards; with less, nothing is measured."""


def device_limit(
    step: Callable[[], object],
    images: int,
    *,
    models: Sequence[nn.Module],
    optimizer: Optimizer,
    device: torch.device,
    world: World = ALONE,
    seconds: float = SECONDS,
) -> float | None:
    """Return the images per second of all processes together while each repeats `step`; None if memory is tight.

    Call it after the first real step, which finds out how many images fit into memory, and while nothing reads images:
    threads that decode would slow the step. All processes of the run must call it. It costs about `seconds`; where one
    step takes longer, it costs that step.

    Args:
        step: a whole training step (gradients, clipping, update) on tensors that are on the device; see `ready_step`.
            The models must be as in training: in training mode, and cut if steps start from activations.
        images: how many images the step has in all processes together.
        models: the models whose parameters and buffers the step changes.
        optimizer: the one that the step uses.

    Raises:
        The errors of `step`, except that memory runs out, if there is only this process.
    """
    with undone(models, optimizer, device, world) as fits:
        if not fits:
            return None
        try:
            return images / seconds_per_step(step, device, seconds, world)
        except (RuntimeError, MemoryError, ResourceError) as error:
            if not world.is_alone or not _is_out_of_memory(error):
                raise
            return None


def ready_step(update: Update, x: Tensor, targets_NK: Tensor, total: int | None = None) -> Callable[[], object]:
    """Return a training step of all of `x`, [N, ...], for `device_limit`; the size of parts stays as it is.

    Args:
        total: number of images of the step in all processes, which then divide it into equally many parts.
    """
    own = copy.copy(update.gradients)  # if memory runs out, the run's own keeps its size
    own.note = lambda _: None
    return partial(replace(update, gradients=own), x, targets_NK, 0, total=total)


@contextmanager
def undone(
    models: Sequence[nn.Module], optimizer: Optimizer, device: torch.device, world: World = ALONE
) -> Iterator[bool]:
    """Undo to the bit what the body does to parameters, buffers, the optimizer and torch's random generators.

    Tensors keep their places in memory, and those that the body adds to the optimizer's state are removed; gradients
    are removed. It yields whether memory suffices for the copies (in all processes); if not, it undoes nothing.
    """
    tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    size = sum(tensor.nbytes for tensor in (*tensors, *_tensors_of(optimizer)))
    free = _free_bytes(device)
    if not all(world.gather(free is None or free > 2 * size + SPARE)):
        yield False
        return
    copies = [tensor.detach().clone() for tensor in tensors]
    restore_optimizer = _restorer(optimizer)
    devices = [device] if device.type == "cuda" else []
    generator = torch.mps.get_rng_state() if device.type == "mps" else None
    try:
        with torch.random.fork_rng(devices=devices):
            yield True
    finally:
        if generator is not None:
            torch.mps.set_rng_state(generator)
        for model in models:
            model.zero_grad()
        with torch.no_grad():
            for tensor, before in zip(tensors, copies, strict=True):
                tensor.copy_(before)
        restore_optimizer()


def seconds_per_step(
    step: Callable[[], object], device: torch.device, budget: float = SECONDS, world: World = ALONE
) -> float:
    """Return the mean duration of a step: of as many as fit into the budget in seconds, after one that warms up."""
    if device.type == "cuda":
        for _ in range(RECORD_AFTER):  # the step may be recorded in one of them
            step()
    first = _timed(step, 1, device)
    if max(world.gather(first)) > budget:
        return max(world.gather(first))
    second = max(world.gather(_timed(step, 1, device)))
    count = int((budget - first - second) / second)
    count = min(world.gather(count))  # every process must exchange its gradients equally often
    return max(world.gather(_timed(step, count, device) / count)) if count > 0 else second


def _timed(step: Callable[[], object], count: int, device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    for _ in range(count):
        step()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was launched so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _restorer(optimizer: Optimizer) -> Callable[[], None]:
    """Copy the state and the settings of an optimizer; return a function that restores them in place."""
    entries = [(entry, {key: _copied(value) for key, value in entry.items()}) for entry in _entries(optimizer)]
    known = [(state, set(state)) for state in _states(optimizer)]

    def restore() -> None:
        for state, parameters in known:
            for parameter in set(state) - parameters:
                del state[parameter]
        for entry, before in entries:
            for key in set(entry) - set(before):
                del entry[key]
            for key, value in before.items():
                if isinstance(value, Tensor):
                    entry[key].copy_(value)
                else:
                    entry[key] = value

    return restore


def _states(optimizer: Optimizer) -> list[dict[Any, Any]]:
    base = getattr(optimizer, "_base_optimizer", None)  # timm's Lookahead has no state of its own
    return [optimizer.state, *([] if base is None else [base.state])]


def _entries(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the dictionaries of the optimizer that a step may change: of each parameter, and of each group."""
    return [*(entry for state in _states(optimizer) for entry in state.values()), *optimizer.param_groups]


def _tensors_of(optimizer: Optimizer) -> Iterator[Tensor]:
    for entry in _entries(optimizer):
        yield from (value for value in entry.values() if isinstance(value, Tensor))


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, in a step or as `Gradients` reports it."""
    return is_out_of_memory(error) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))


def _free_bytes(device: torch.device) -> int | None:
    """Return how much memory is free for more tensors; None if the system does not say."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free_memory()
