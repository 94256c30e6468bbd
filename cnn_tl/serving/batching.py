"""Batch the images of several requests: one thread collects them and runs the model."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cnn_tl.data.loader import Pixels

Outputs = NDArray[np.float32]
"""As of `Classifier.outputs`."""


@dataclass(frozen=True)
class _Waiting:
    pixels: Pixels
    answer: Future[Outputs] = field(default_factory=Future)


class Batcher:
    """Runs the model on up to `batch_size` images together, in its own thread.

    Images wait while the model runs, so batches grow with the load. `max_wait`, in seconds, is how long the first image
    of a batch waits for others when the server is idle.
    """

    def __init__(
        self,
        outputs: Callable[[Pixels], Outputs],
        *,
        batch_size: int,
        max_wait: float,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._outputs, self._batch_size, self._max_wait, self._on_batch = outputs, batch_size, max_wait, on_batch
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether images submitted now will be predicted."""
        return self._thread.is_alive()

    def submit(self, pixels_HWC: Pixels) -> Future[Outputs]:
        """Return a future of the outputs of one image; the caller limits how many images wait."""
        waiting = _Waiting(pixels_HWC)
        self._queue.put(waiting)
        return waiting.answer

    def close(self) -> None:
        """Predict what is waiting, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        running = True
        while running:
            batch, running = self._collect()
            batch = [waiting for waiting in batch if waiting.answer.set_running_or_notify_cancel()]
            if batch:
                self._run(batch)

    def _collect(self) -> tuple[list[_Waiting], bool]:
        """Return the next images, and whether more may come."""
        first = self._queue.get()
        if first is None:
            return [], False
        batch = [first]
        until = time.monotonic() + self._max_wait
        while len(batch) < self._batch_size:
            try:
                following = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if following is None:
                return batch, False
            batch.append(following)
        return batch, True

    def _run(self, batch: list[_Waiting]) -> None:
        self._on_batch(len(batch))
        try:
            outputs_NE = self._outputs(np.stack([waiting.pixels for waiting in batch]))
        except Exception as error:  # noqa: BLE001 - each request gets the error, and the thread goes on
            for waiting in batch:
                waiting.answer.set_exception(error)
            return
        for waiting, outputs_E in zip(batch, outputs_NE, strict=True):
            waiting.answer.set_result(outputs_E)
