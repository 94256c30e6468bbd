"""Blocks in which images travel to the device, some steps ahead of the one that uses them.

A thread packs the images of each step into a block of (pinned) host memory, and a stream of its own copies it to a
block on the device. Streams wait for each other by events, so the thread that launches kernels never waits for a copy,
only for images that are not read yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.training.views.source_batch import SourceBatch

Pixels = NDArray[np.uint8]
Sizes = list[tuple[int, int]]

BLOCKS = 3
"""One is read by the current step, the others are filled meanwhile."""

SPARE = 1.25
"""A block that is too small is replaced by one of this many times the size needed, so that it is not replaced again."""


@dataclass(frozen=True)
class Loaded:
    """The sources of a step.

    Attributes:
        batch: on the device; kernels that read it must be launched, on the current stream, before `release`.
        sizes: height and width of each image, in pixels.
        release: returns the memory of the batch; the next item of the iterator does so too.
    """

    batch: SourceBatch
    sizes: Sizes
    release: Callable[[], None] = lambda: None


class Staging:
    """The blocks of one device, reused from epoch to epoch; one `ahead` at a time."""

    def __init__(self, device: torch.device, blocks: int = BLOCKS) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._blocks = [_Block(device, self._stream) for _ in range(blocks)]

    @contextmanager
    def ahead(self, groups: Iterable[Sequence[Pixels]]) -> Iterator[Iterator[Loaded]]:
        """Start to copy groups of images [H, W, 3] to the device, and yield an iterator over them in order.

        Args:
            groups: iterated in another thread; what it raises is raised by the iterator.
        """
        free: SimpleQueue[_Block | None] = SimpleQueue()
        ready: SimpleQueue[_Block | BaseException | None] = SimpleQueue()
        for block in self._blocks:
            free.put(block)
        if self._stream is not None:  # kernels of the last epoch may still read a block
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        left = threading.Event()
        thread = threading.Thread(
            target=_pack, args=(groups, free, ready, left, self._stream), name="stage", daemon=True
        )
        thread.start()
        try:
            yield _taken(free, ready)
        finally:
            left.set()
            free.put(None)
            thread.join()


class _Block:
    """Host memory, device memory, and the events that order their use."""

    def __init__(self, device: torch.device, stream: torch.cuda.Stream | None) -> None:
        self._device, self._stream = device, stream
        self._host, self._there = _empty(0), torch.empty(0, dtype=torch.uint8, device=device)
        self._used = 0
        self._sizes: Sizes = []
        if stream is not None:
            self._copied, self._read = _event(blocking=True), _event()

    def fill(self, images: Sequence[Pixels]) -> None:
        """Pack images into the host memory, their positions and sizes first, and start the copy."""
        if self._stream is not None:
            self._copied.synchronize()
        self._sizes = [(image.shape[0], image.shape[1]) for image in images]
        areas = [height * width for height, width in self._sizes]
        starts = np.cumsum([0, *areas])
        head = 3 * len(images) * np.dtype(np.int64).itemsize
        self._used = head + 3 * int(starts[-1])
        if self._used > len(self._host):
            self._host = _empty(int(SPARE * self._used), pinned=self._stream is not None)
        packed = self._host.numpy()
        packed[:head].view(np.int64).reshape(3, -1)[:] = starts[:-1], *np.array(self._sizes, np.int64).T
        pixels = packed[head : self._used].reshape(-1, 3)
        for image, start, area in zip(images, starts, areas, strict=False):
            pixels[start : start + area] = image.reshape(-1, 3)
        self._copy()

    def _copy(self) -> None:
        if self._stream is None:
            on_host = self._host[: self._used]
            self._there = on_host if self._device.type == "cpu" else on_host.to(self._device)
            return
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._read)
            if self._used > len(self._there):
                self._there = torch.empty(len(self._host), dtype=torch.uint8, device=self._device)
            self._there[: self._used].copy_(self._host[: self._used], non_blocking=True)
            self._copied.record(self._stream)

    def take(self, release: Callable[[], None]) -> Loaded:
        """Return the images for kernels that are launched from now on, on the current stream."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)
        head = 3 * len(self._sizes) * 8
        starts, heights, widths = self._there[:head].view(torch.int64).view(3, -1).unbind()
        batch = SourceBatch(self._there[head : self._used].view(-1, 3), starts, heights, widths)
        return Loaded(batch, self._sizes, release)

    def give_back(self) -> None:
        """Allow the next copy once the kernels launched so far have run."""
        if self._stream is not None:
            self._read.record(torch.cuda.current_stream(self._device))


def _pack(
    groups: Iterable[Sequence[Pixels]],
    free: SimpleQueue[_Block | None],
    ready: SimpleQueue[_Block | BaseException | None],
    left: threading.Event,
    stream: torch.cuda.Stream | None,
) -> None:
    try:
        if stream is not None:  # a new thread begins on the first GPU
            torch.cuda.set_device(stream.device)
        for images in groups:
            block = free.get()
            if block is None or left.is_set():
                return
            block.fill(images)
            ready.put(block)
        ready.put(None)
    except BaseException as error:  # noqa: BLE001 - raised again in the thread that takes the blocks
        ready.put(error)


def _taken(free: SimpleQueue[_Block | None], ready: SimpleQueue[_Block | BaseException | None]) -> Iterator[Loaded]:
    while True:
        block = ready.get()
        if block is None:
            return
        if isinstance(block, BaseException):
            raise block
        held = [block]

        def release(held: list[_Block] = held) -> None:
            while held:
                block = held.pop()
                block.give_back()
                free.put(block)

        yield block.take(release)
        release()


def _event(*, blocking: bool = False) -> torch.cuda.Event:
    return torch.cuda.Event(blocking=blocking)  # type: ignore[no-untyped-call]


def _empty(nbytes: int, *, pinned: bool = False) -> Tensor:
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=pinned)
