"""What the server does with images, whoever asks: decode in threads, answer in batches, explain one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from starlette.exceptions import HTTPException

from cnn_tl.core.errors import BadImageError, printable
from cnn_tl.core.statistics import softmax
from cnn_tl.data.loader import Pixels
from cnn_tl.data.views import transforms
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.inference.classifier import Answer, Classifier, finite
from cnn_tl.serving.batching import Batcher, Logits
from cnn_tl.serving.heat_map import HeatMap, drawn, why_not
from cnn_tl.serving.limits import Limits, Places, busy
from cnn_tl.serving.metrics import Metrics

Made = TypeVar("Made")


class Service:
    """A trained model, its threads, and what waits for them.

    Attributes:
        name: what the model is called.
        classifier: the model. explains: the name of the method of its heat maps.
        metrics: what was done so far. stopping: set it when no more is to be promised.
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
    ) -> None:
        self.name, self.classifier, self.limits, self.metrics = name, classifier, limits, Metrics()
        self.explains, self._heat_map = heat_map
        self.stopping = False
        self._spec = classifier.preprocessing
        if limits.pixels is not None:
            self._spec = replace(self._spec, max_pixels=min(limits.pixels, self._spec.max_pixels))
        self._places = Places(limits.images, "images are waiting")
        self._heat_places = Places(limits.heat_maps, "heat maps are being made")
        self.metrics.waiting.set_function(lambda: self._places.taken)
        self._readers = ThreadPoolExecutor(workers, thread_name_prefix="read")
        self._explaining = ThreadPoolExecutor(1, thread_name_prefix="explain")
        on_batch = self.metrics.batch.observe
        self._batcher = Batcher(classifier.logits, batch_size=batch_size, max_wait=max_wait, on_batch=on_batch)

    @property
    def ready(self) -> bool:
        """Whether images that come now are answered."""
        return self._batcher.alive and not self.stopping

    def warm_up(self) -> None:
        """Let the model run once: what it cannot do fails here, and the first image need not wait for it.

        Raises:
            ArtefactError: its logits are not finite.
        """
        finite(self._grey_K)
        self._explaining.submit(self._explained, self._grey_HWC, self._grey_K, 0)  # nobody waits for that

    def promise_no_more(self) -> None:
        """Let the health say that the server stops; what comes all the same is answered."""
        self.stopping = True

    def close(self) -> None:
        """Answer what is waiting, and end the threads."""
        self.promise_no_more()
        self._readers.shutdown()
        self._explaining.shutdown()
        self._batcher.close()

    async def answers(self, images: Sequence[tuple[str, bytes]], top: int) -> list[Answer]:
        """Return an answer for each image (its name and its bytes), in their order; broken ones say why.

        Raises:
            HTTPException: 503, too many are waiting.
        """
        self._demand_a_model()
        async with _seat(self._places, len(images)):
            return list(await asyncio.gather(*(self._answer(name, content, top) for name, content in images)))

    async def _answer(self, name: str, content: bytes, top: int) -> Answer:
        try:
            _, logits_K = await self._look_at(content)
        except BadImageError as error:
            self.metrics.images.labels("broken").inc()
            return Answer(name, None, None, (), error.reason)
        self.metrics.images.labels("answered").inc()
        return self.classifier.answer(name, softmax(logits_K[None])[0], top)

    async def _look_at(self, content: bytes) -> tuple[Pixels, Logits]:
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
            # the limit is the flag's, not that of the recipe which the reader knows
            raise BadImageError(error.path, error.reason.replace("data.max_pixels", "--max-pixels")) from error

    @cached_property
    def _grey_HWC(self) -> Pixels:  # noqa: N802 - the shape is part of the name
        """An image that tells the network nothing."""
        return np.full((self._spec.height, self._spec.width, 3), transforms.mean_colour(self._spec), np.uint8)

    @cached_property
    def _grey_K(self) -> Logits:  # noqa: N802
        return self._batcher.submit(self._grey_HWC).result()

    def _explained(self, pixels_HWC: Pixels, logits_K: Logits, index: int) -> tuple[bytes, str | None]:
        """Return the heat map of a class as PNG, and why it must not be trusted, if so."""
        heat_HW = self._heat_map(pixels_HWC, index)
        after, before = heat_maps.log_odds(np.stack([logits_K, self._grey_K]), index)
        return drawn(pixels_HWC, heat_HW), heat_maps.caveat(heat_HW, after - before)

    async def heat(self, content: bytes, label: str | None) -> tuple[str, bytes, str | None]:
        """Return which class was explained, its heat map as PNG, and why the map must not be trusted, if so.

        No label means the predicted class.

        Raises:
            BadImageError: the image cannot be read.
            HTTPException: 400, no such class; 501, the server cannot draw; 503, too many are waiting.
        """
        self._demand_a_model()
        if reason := why_not():
            raise HTTPException(501, reason)
        classes = self.classifier.classes
        if label is not None and label not in classes:
            raise HTTPException(400, f"the model has no class {printable(label)}; GET /health lists them")
        async with _seat(self._heat_places, 1), _seat(self._places, 1):
            pixels_HWC, logits_K = await self._look_at(content)
            index = int(logits_K.argmax()) if label is None else classes.index(label)
            made = _in(self._explaining, lambda: self._explained(pixels_HWC, logits_K, index))
            return classes[index], *await made

    def _demand_a_model(self) -> None:
        """Refuse once the threads are gone; while the server only begins to stop, what has come is still answered."""
        if not self._batcher.alive:
            raise HTTPException(503, "the server is stopping", {"Retry-After": "10"})


async def _in(threads: ThreadPoolExecutor, work: Callable[[], Made]) -> Made:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


@asynccontextmanager
async def _seat(places: Places, number: int) -> AsyncIterator[None]:
    places.take(number)
    try:
        yield
    finally:
        places.give_back(number)
