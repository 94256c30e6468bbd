"""Run an engine over batches: what the engines in torch and in onnxruntime have in common; needs neither."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Outputs = NDArray[np.float32]


class Images(Protocol):
    """A batch of images: a `data.loader.Batch`, or a `DeviceBatch`."""

    @property
    def items(self) -> Sequence[Any]:
        """The images."""
        ...

    @property
    def pixels(self) -> Any:
        """Their pixels, uint8 [N, H, W, 3]: an array, or a tensor on a device."""
        ...


B = TypeVar("B", bound=Images)


class Runs(Protocol):
    """What `stream` uses of an engine; `pending` is whatever `start` returns."""

    @property
    def is_asynchronous(self) -> bool:
        """Whether `start` returns before the outputs are computed."""
        ...

    def start(self, pixels: Any, /) -> Any:
        """Start to compute the outputs of uint8 pixels [N, H, W, 3]."""
        ...

    def finish(self, pending: Any, /) -> Outputs:
        """Wait for these outputs and return them, float32 [N, D]."""
        ...


def stream(engine: Runs, batches: Iterable[B]) -> Iterator[tuple[B, Outputs]]:
    """Yield each batch with its outputs [N, D], in order; on CUDA the device then works on the next one already."""
    previous: tuple[B, Any] | None = None
    for batch in batches:
        pending = engine.start(batch.pixels) if batch.items else None
        if not engine.is_asynchronous:
            yield _finished(engine, batch, pending)
            continue
        if previous is not None:
            yield _finished(engine, *previous)
        previous = batch, pending
    if previous is not None:
        yield _finished(engine, *previous)


def _finished(engine: Runs, batch: B, pending: Any) -> tuple[B, Outputs]:
    return batch, np.empty((0, 0), np.float32) if pending is None else engine.finish(pending)
