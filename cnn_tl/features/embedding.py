"""The frozen part at work: batches of pixels in, features out, as fast as the device allows.

The model is in evaluation mode, so an image's features do not depend on its neighbours in the batch. They depend, in
the last bits, on the batch's size, by which the kernels are chosen. So on a CPU all batches have one size, short ones
being filled up, and what is computed later, elsewhere or once more is what was computed before. On a GPU, where large
batches pay and nothing is promised about the last bits, no batch has fewer than `SMALLEST_BATCH` images.
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
class UnderWay:
    """Features [N, D] that the device may still be computing.

    Attributes:
        copied: comes to pass on the device when they are in `features`; None where they are there already.
    """

    features: Tensor
    copied: torch.cuda.Event | None = None


class Embedder:
    """The frozen part of one network on one device.

    `start` hands a batch to the device and returns at once where the device works by itself (CUDA); `finish` waits for
    it. So the next batch can be under way while this one is fetched.

    Attributes:
        seconds: time spent in `start` and `finish`, where the images pass the network.
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
            # freezing folds the parameters into the compiled code, which pays only because nothing of them moves
            self._model = torch.compile(self._model, options={"freezing": True})  # type: ignore[assignment]
        self.seconds = 0.0

    def start(self, pixels: Pixels) -> UnderWay:
        """Send uint8 pixels [N, H, W, 3], at most a batch, through the network; return the features [N, D] to come."""
        started = time.perf_counter()
        count = len(pixels)
        assert count <= self._batch_size, "another size may give other bits"
        x_NCHW = to_input(_padded(pixels, self._least), self._spec, self._device)
        # compiled code with frozen parameters takes no inference tensors
        with torch.no_grad() if self._compiled else torch.inference_mode(), autocast(self._device, self._precision):
            features_ND: Tensor = self._model(x_NCHW)[:count].flatten(1).float()
        copied = None
        if self._device.type == "cuda":
            features_ND = features_ND.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(self._device))
        self.seconds += time.perf_counter() - started
        return UnderWay(features_ND, copied)

    def finish(self, begun: UnderWay) -> Features:
        """Wait for what `start` began, and for nothing that began after it; return it, float32 [N, D]."""
        started = time.perf_counter()
        if begun.copied is not None:
            begun.copied.synchronize()
        array: Features = begun.features.cpu().numpy()
        self.seconds += time.perf_counter() - started
        return array


@contextmanager
def embedder(
    network: Network, device: torch.device, precision: Precision, *, compiled: bool = False, batch_size: int
) -> Iterator[Embedder]:
    """Yield an `Embedder`; inside the body the network's classifier is out of the way."""
    with ExitStack() as stack:
        stack.enter_context(without_classifier(network.model))
        if compiled:
            stack.enter_context(quiet_compiler())
        yield Embedder(network, device, precision, compiled=compiled, batch_size=batch_size)


def stream(frozen: Embedder, batches: Iterable[Batch[Item]]) -> Iterator[tuple[Batch[Item], Features]]:
    """Yield each batch with its features [N, D], in order; the device works on the next one meanwhile."""
    under_way: tuple[Batch[Item], UnderWay | None] | None = None
    for batch in batches:
        begun = frozen.start(batch.pixels) if batch.items else None
        if under_way is not None:
            yield _finished(frozen, *under_way)
        under_way = batch, begun
    if under_way is not None:
        yield _finished(frozen, *under_way)


def _finished(frozen: Embedder, batch: Batch[Item], begun: UnderWay | None) -> tuple[Batch[Item], Features]:
    return batch, np.empty((0, 0), np.float32) if begun is None else frozen.finish(begun)


def _padded(pixels: Pixels, size: int) -> Pixels:
    """Fill a batch up to `size` images by repeating its first one."""
    lacking = size - len(pixels)
    return pixels if lacking <= 0 else np.concatenate([pixels, np.repeat(pixels[:1], lacking, axis=0)])


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Keep torch.compile's remarks about this machine's toolchain off the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch._dynamo", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
