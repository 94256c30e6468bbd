"""Runs the frozen part of a network: batches of pixels in, features out, as fast as the device allows.

The model is in evaluation mode, so an image's features do not depend on the other images of its batch. But kernels are
chosen by the size of the batch, which affects the last bits. So on a CPU all batches are padded to the same size, and
features computed later or elsewhere are the same to the last bit. On a GPU, where large batches are faster and the last
bits are not guaranteed, batches have at least `SMALLEST_BATCH` images.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.core.device import Precision, autocast
from cnn_tl.data.loader import Batch
from cnn_tl.networks.backbone import Network, place, to_input, without_classifier

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]

SMALLEST_BATCH = 8


@dataclass(frozen=True)
class PendingFeatures:
    """Features [N, D] that the device may still be computing.

    Attributes:
        copied: recorded on the device once they have been copied to `features`; None if they are there already.
    """

    features: Tensor
    copied: torch.cuda.Event | None = None


class Embedder:
    """The frozen part of one network on one device.

    `start` hands a batch to the device and, on CUDA, returns at once; `finish` waits for the result. So the device can
    work on the next batch while this one is used.

    Attributes:
        seconds: time spent in `start` and `finish`, that is, in the network.
    """

    def __init__(
        self, network: Network, device: torch.device, precision: Precision, *, compiled: bool, batch_size: int
    ) -> None:
        self._spec = network.preprocessing
        self._model: nn.Module = place(network.model, device).eval()
        self._device = device
        self._precision = precision
        self._compiled, self._batch_size = compiled, batch_size
        self._least = batch_size if compiled or device.type == "cpu" else SMALLEST_BATCH
        if compiled:
            # freezing folds the parameters into the compiled code: they never change here
            self._model = torch.compile(self._model, options={"freezing": True})  # type: ignore[assignment]
        self.seconds = 0.0

    def start(self, pixels: Pixels) -> PendingFeatures:
        """Start to compute the features [N, D] of uint8 pixels [N, H, W, 3], at most a batch."""
        started = time.perf_counter()
        count = len(pixels)
        assert count <= self._batch_size, "another size may give other bits"
        x_NCHW = to_input(_padded(pixels, self._least), self._spec, self._device)
        # compiled code with frozen parameters does not accept inference tensors
        with torch.no_grad() if self._compiled else torch.inference_mode(), autocast(self._device, self._precision):
            features_ND: Tensor = self._model(x_NCHW)[:count].flatten(1).float()
        copied = None
        if self._device.type == "cuda":
            features_ND = features_ND.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(self._device))
        self.seconds += time.perf_counter() - started
        return PendingFeatures(features_ND, copied)

    def finish(self, pending: PendingFeatures) -> Features:
        """Wait for these features, not for batches started later, and return them, float32 [N, D]."""
        started = time.perf_counter()
        if pending.copied is not None:
            pending.copied.synchronize()
        array: Features = pending.features.cpu().numpy()
        self.seconds += time.perf_counter() - started
        return array


@contextmanager
def embedder(
    network: Network, device: torch.device, precision: Precision, *, compiled: bool = False, batch_size: int
) -> Iterator[Embedder]:
    """Yield an `Embedder`; inside the block the network has no classifier."""
    with ExitStack() as stack:
        stack.enter_context(without_classifier(network.model))
        if compiled:
            stack.enter_context(quiet_compiler())
        yield Embedder(network, device, precision, compiled=compiled, batch_size=batch_size)


def stream(frozen: Embedder, batches: Iterable[Batch[Item]]) -> Iterator[tuple[Batch[Item], Features]]:
    """Yield each batch with its features [N, D], in order, while the device works on the next one."""
    previous: tuple[Batch[Item], PendingFeatures | None] | None = None
    for batch in batches:
        pending = frozen.start(batch.pixels) if batch.items else None
        if previous is not None:
            yield _finished(frozen, *previous)
        previous = batch, pending
    if previous is not None:
        yield _finished(frozen, *previous)


def _finished(frozen: Embedder, batch: Batch[Item], pending: PendingFeatures | None) -> tuple[Batch[Item], Features]:
    return batch, np.empty((0, 0), np.float32) if pending is None else frozen.finish(pending)


def _padded(pixels: Pixels, size: int) -> Pixels:
    """Pad a batch to at least `size` images by repeating its first one."""
    lacking = size - len(pixels)
    return pixels if lacking <= 0 else np.concatenate([pixels, np.repeat(pixels[:1], lacking, axis=0)])


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Hide torch.compile's messages about this machine's toolchain from the user."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch._dynamo", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
