"""An engine that is being loaded while images are read already."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.background import BackgroundThread
from cnn_tl.core.device import current_gpu
from cnn_tl.data.loader import Pixels
from cnn_tl.features.stream import Runs


class Timed(Runs, Protocol):
    """What is used of the engine that is loaded."""

    @property
    def seconds(self) -> float:
        """Time spent in the network."""
        ...


class LoadingEngine:
    """Loads an engine in a thread, and uses it there: cuDNN keeps the kernels that it has chosen for each thread.

    Every method waits until the engine is loaded, and raises what loading it has raised.
    """

    def __init__(self, load: Callable[[], Timed]) -> None:
        self._thread = BackgroundThread("engine")
        gpu = current_gpu()
        self._engine = self._thread.submit(lambda: _on_gpu(gpu, load))

    @property
    def is_asynchronous(self) -> bool:
        """As of `Engine`."""
        return self._engine.result().is_asynchronous

    @property
    def seconds(self) -> float:
        """As of `Engine`."""
        return self._engine.result().seconds

    def start(self, pixels: Pixels) -> Future[Any]:
        """Queue a batch; its pixels must not be changed before `finish` has returned its outputs."""
        engine = self._engine.result()
        return self._thread.submit(lambda: engine.start(pixels))

    def finish(self, pending: Future[Any]) -> NDArray[np.float32]:
        """Wait for these outputs, float32 [N, D]."""
        return self._engine.result().finish(pending.result())

    def outputs(self, pixels: Pixels) -> NDArray[np.float32]:
        """Return the outputs, float32 [N, D], of uint8 pixels [N, H, W, 3]."""
        return self.finish(self.start(pixels))


def _on_gpu(gpu: int | None, load: Callable[[], Timed]) -> Timed:
    """Load with the GPU that the caller has chosen: each thread has a current one of its own."""
    if gpu is not None:
        import torch

        torch.cuda.set_device(gpu)
    return load()
