"""The work of the server: decode images in threads, predict them in batches, explain them one by one."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from starlette.exceptions import HTTPException

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import BadImageError, printable
from cnn_tl.data.loader import Pixels
from cnn_tl.data.views import transforms
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.explaining.one_heat_map import HeatMap
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.inference.classifier import Answer, Classifier, finite
from cnn_tl.serving.batching import Batcher, Outputs
from cnn_tl.serving.heat_map import drawn, why_not
from cnn_tl.serving.limits import Limits, Places, busy
from cnn_tl.serving.metrics import Metrics

Made = TypeVar("Made")


class Service:
    """A trained model, its threads and their queues.

    Attributes:
        name: of the model, for people.
        classifier: the model. explains: the method of its heat maps.
        max_error, unknown: which answers are withheld, see `Classifier.rule`. rule: what follows from them.
        metrics: counters of the work. stopping: whether the server refuses new work soon.
    """

    def __init__(
        self,
        name: str,
        classifier: Classifier,
        heat_map: tuple[str, HeatMap],
        limits: Limits,
        *,
        batch_size: int,
        max_wait: float,
        workers: int,
        max_error: float | None = None,
        unknown: float | None = None,
    ) -> None:
        self.name, self.classifier, self.limits, self.metrics = name, classifier, limits, Metrics()
        self.explains, self._heat_map = heat_map
        self.stopping = False
        self._spec = classifier.preprocessing
        self.max_error, self.unknown, self.rule = max_error, unknown, classifier.rule(max_error, unknown)
        if limits.pixels is not None:
            self._spec = replace(self._spec, max_pixels=min(limits.pixels, self._spec.max_pixels))
        self._places = Places(limits.images, "images are waiting")
        self._heat_places = Places(limits.heat_maps, "heat maps are being made")
        self.metrics.waiting.set_function(lambda: self._places.taken)
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="read")
        self._explaining = ThreadPoolExecutor(1, thread_name_prefix="explain")
        if isinstance(classifier.engine, HeadedEngine):  # each thread takes one image: none gains by waiting for others
            batch_size, max_wait = min(batch_size, default_workers()), 0.0
        self._batch_size = batch_size
        on_batch = self.metrics.batch.observe
        self._batcher = Batcher(classifier.outputs, batch_size=batch_size, max_wait=max_wait, on_batch=on_batch)

    @property
    def ready(self) -> bool:
        """Whether new images are answered."""
        return self._batcher.alive and not self.stopping

    def warm_up(self) -> None:
        """Run the model, so that it fails here if it cannot run, and the first images need not wait.

        On CUDA it runs in each size of batch that the engine uses, as each takes a second or two the first time.

        Raises:
            ArtefactError: its logits are not finite.
        """
        finite(self._grey_K)
        if self.classifier.engine is not None and self.classifier.engine.is_asynchronous:
            sizes = itertools.takewhile(lambda size: size < 2 * self._batch_size, (2**n for n in itertools.count(1)))
            for size in sizes:
                together = [self._batcher.submit(self._grey_HWC) for _ in range(min(size, self._batch_size))]
                for waiting in together:
                    waiting.result()
        self._explaining.submit(self._explained, self._grey_HWC, self._grey_K, 0)  # without waiting for it

    def begin_stopping(self) -> None:
        """Report in /health that the server is stopping; requests that still arrive are answered."""
        self.stopping = True

    def close(self) -> None:
        """Finish what is waiting, and end the threads."""
        self.begin_stopping()
        self._readers.shutdown()
        self._explaining.shutdown()
        self._batcher.close()

    async def answers(self, images: Sequence[tuple[str, bytes]], top: int) -> list[Answer]:
        """Predict images, each a name and the bytes of a file; the answer of an unreadable one says why.

        Raises:
            HTTPException: 503, too many are waiting.
        """
        self._require_model()
        async with _taking(self._places, len(images)):
            return list(await asyncio.gather(*(self._answer(name, content, top) for name, content in images)))

    async def _answer(self, name: str, content: bytes, top: int) -> Answer:
        try:
            _, outputs_E = await self._predict(content)
        except BadImageError as error:
            self.metrics.images.labels("broken").inc()
            return Answer(name, None, None, (), error.reason)
        self.metrics.images.labels("answered").inc()
        answer = self.classifier.answer(name, outputs_E, top, self.rule)
        if answer.verdict is not None:
            self.metrics.verdicts.labels(answer.verdict).inc()
        return answer

    async def _predict(self, content: bytes) -> tuple[Pixels, Outputs]:
        pixels_HWC = await _in(self._readers, lambda: self._read(content))
        try:
            return pixels_HWC, await asyncio.wrap_future(self._batcher.submit(pixels_HWC))
        except MemoryError:
            raise busy("images are waiting") from None

    def _read(self, content: bytes) -> Pixels:
        try:
            return transforms.read_pixels(content, self._spec)
        except BadImageError as error:
            if self._spec.max_pixels == self.classifier.preprocessing.max_pixels:
                raise
            # the limit is that of the flag, but the reader names the key of the recipe
            raise BadImageError(error.path, error.reason.replace("data.max_pixels", "--max-pixels")) from error

    @cached_property
    def _grey_HWC(self) -> Pixels:  # noqa: N802 - the shape is part of the name
        """An image without information."""
        return np.full((self._spec.height, self._spec.width, 3), transforms.mean_colour(self._spec), np.uint8)

    @cached_property
    def _grey_K(self) -> Outputs:  # noqa: N802
        return self._batcher.submit(self._grey_HWC).result()[: len(self.classifier.classes)]

    def _explained(self, pixels_HWC: Pixels, logits_K: Outputs, index: int) -> tuple[bytes, str | None]:
        """Return the heat map of a class as PNG, and its caveat."""
        heat_HW = self._heat_map(pixels_HWC, index)
        after, before = heat_maps.log_odds(np.stack([logits_K, self._grey_K]), index)
        return drawn(pixels_HWC, heat_HW), heat_maps.caveat(heat_HW, after - before)

    async def heat(self, content: bytes, label: str | None) -> tuple[str, bytes, str | None]:
        """Return the explained class, its heat map as PNG, and why not to trust the map, if there is a reason.

        Args:
            label: the class; None: the predicted one.

        Raises:
            BadImageError: the image cannot be read.
            HTTPException: 400, no such class; 501, the server cannot draw; 503, too many are waiting.
        """
        self._require_model()
        if reason := why_not():
            raise HTTPException(501, reason)
        classes = self.classifier.classes
        if label is not None and label not in classes:
            raise HTTPException(400, f"the model has no class {printable(label)}; GET /health lists them")
        async with _taking(self._heat_places, 1), _taking(self._places, 1):
            pixels_HWC, outputs_E = await self._predict(content)
            logits_K = outputs_E[: len(classes)]
            index = int(logits_K.argmax()) if label is None else classes.index(label)
            made = _in(self._explaining, lambda: self._explained(pixels_HWC, logits_K, index))
            return classes[index], *await made

    def _require_model(self) -> None:
        """Refuse once the threads have ended; while the server is stopping, requests are still answered."""
        if not self._batcher.alive:
            raise HTTPException(503, "the server is stopping", {"Retry-After": "10"})


async def _in(threads: ThreadPoolExecutor, work: Callable[[], Made]) -> Made:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


@asynccontextmanager
async def _taking(places: Places, number: int) -> AsyncIterator[None]:
    places.take(number)
    try:
        yield
    finally:
        places.give_back(number)
