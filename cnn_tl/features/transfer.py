"""Copies between the host and the device that neither of them waits for.

A GPU copies from pinned memory (which the system cannot move) while it computes; from other memory the copy blocks the
host. Pinning memory takes longer than copying into it, so a few pinned buffers are used in turn. The copies have a
stream of their own, so the next batch arrives while the previous one is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BUFFERS = 3
"""One is being filled, one copied, and one may still wait for the copy stream."""


class Event(Protocol):
    """What is used of `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until the work recorded in it has finished."""
        ...


@dataclass
class Buffer:
    """Memory of the host.

    Attributes:
        memory: uint8, one-dimensional.
        copied: recorded after the last copy out of it; None if there was none.
    """

    memory: Tensor
    copied: Event | None = None


class BufferRing:
    """A few buffers, used in turn; one is filled again only once the copy out of it has finished."""

    def __init__(self, allocate: Callable[[int], Tensor], count: int = BUFFERS) -> None:
        self._allocate, self._next = allocate, 0
        self._buffers = [Buffer(torch.empty(0, dtype=torch.uint8)) for _ in range(count)]

    def filled(self, array: NDArray[np.uint8]) -> tuple[Buffer, Tensor]:
        """Copy an array into the next buffer; return the buffer, and the part of it that holds the array."""
        buffer = self._buffers[self._next]
        self._next = (self._next + 1) % len(self._buffers)
        if buffer.copied is not None:
            buffer.copied.synchronize()
            buffer.copied = None
        if buffer.memory.numel() < array.nbytes:
            buffer.memory = self._allocate(array.nbytes)
        held = buffer.memory[: array.nbytes].view(array.shape)
        np.copyto(held.numpy(), array)
        return buffer, held


@dataclass(frozen=True)
class HostCopy:
    """A tensor on its way to the host; `ready` is recorded once it has arrived, None if it has."""

    tensor: Tensor
    ready: Event | None = None

    def array(self) -> NDArray[np.float32]:
        """Wait for the tensor, not for work that began after it, and return it."""
        if self.ready is None:
            return self.tensor.numpy()
        self.ready.synchronize()
        return np.array(self.tensor.numpy())  # a copy: torch uses pinned memory again


class Transfer:
    """Copies to and from a device that shares the host's memory, or waits for each copy (CPU, MPS)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def to_device(self, array: NDArray[np.uint8]) -> Tensor:
        """Return the array on the device; it may be changed once this returns, except on a CPU."""
        return torch.from_numpy(array).to(self._device)

    def to_host(self, tensor: Tensor) -> HostCopy:
        """Copy a tensor to the host."""
        return HostCopy(tensor.cpu())


class CudaTransfer(Transfer):
    """Copies to and from a CUDA device, without waiting for them."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._ring = BufferRing(lambda nbytes: torch.empty(nbytes, dtype=torch.uint8, pin_memory=True))

    def to_device(self, array: NDArray[np.uint8]) -> Tensor:
        """Return the array on the device, where the current stream may use it; the host's may be changed at once."""
        buffer, held = self._ring.filled(array)
        computing = torch.cuda.current_stream(self._device)
        copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            arriving = held.to(self._device, non_blocking=True)
            copied.record(self._stream)
        buffer.copied = copied
        computing.wait_event(copied)
        arriving.record_stream(computing)  # its memory is used again only after the work that the caller starts
        return arriving

    def to_host(self, tensor: Tensor) -> HostCopy:
        """Start to copy a tensor to the host."""
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arriving = tensor.to("cpu", non_blocking=True)
        ready.record(torch.cuda.current_stream(self._device))
        return HostCopy(arriving, ready)


def transfer_of(device: torch.device) -> Transfer:
    """Return how to copy to and from a device."""
    return CudaTransfer(device) if device.type == "cuda" else Transfer(device)
