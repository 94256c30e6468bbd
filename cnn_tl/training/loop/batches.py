"""What the steps of an epoch are fed: one view of each image, as the normalised image or as kept activations."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.loader import Batch
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.views.augment import finish_of
from cnn_tl.data.views.transforms import mean_colour
from cnn_tl.features.cache_keys import PLAIN, view_seed
from cnn_tl.networks import freeze
from cnn_tl.networks.backbone import normalised, to_device
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Pixels, Session
from cnn_tl.training.loop.activations import Boundary, open_boundary
from cnn_tl.training.loop.augmentation import agrees, finished
from cnn_tl.training.step.schedule import balanced_batches, epoch_batches


@dataclass(frozen=True)
class Step:
    """What this process has of a step.

    Attributes:
        images: its part of the step's. x: what the model takes for them, [N, ...].
        first: the number of its first image among all of the step. total: how many those are.
        counts: False: there are fewer images than processes, and this one takes part with an image that is no
            part of the step.
    """

    images: Sequence[ImageRecord]
    x: Tensor
    first: int
    total: int
    counts: bool = True


Item = TypeVar("Item")
Steps = Generator[Step, None, None]

WAITS = 0.02
"""Share of an epoch's time that a GPU may wait for images before it does part of their augmentation. That takes it
some 20 small kernels for a batch, and spares a core a third of the time of each view (0.7 of 1.9 ms measured); a CPU
needs six times as long for it in batches, so there it stays with the threads."""


class Feed:
    """The training images of a run, epoch by epoch.

    Attributes:
        images: those of the training part.
        steps_per_epoch, steps, epochs: how long the run is; the last epoch may be cut short.
        seconds_reading: for how long images were waited for, in all; what the frozen part computes is no waiting.
    """

    def __init__(self, session: Session[LoopRecipe]) -> None:
        self.images = session.manifest.of("train")
        self.seconds_reading = 0.0
        self._session = session
        self.steps_per_epoch = len(self._whole(epoch=1))
        self.steps = session.recipe.train.length.steps(self.steps_per_epoch)
        self.epochs = -(-self.steps // self.steps_per_epoch)
        self._boundary: Boundary | None = None
        self._finishes_on_device = session.recipe.run.augment == "device"

    def open(self, *, gradual: bool = False) -> None:
        """Decide whether a step begins where the frozen part of the network ends; what trains must have been decided.

        Args:
            gradual: more of it will train later.
        """
        self._boundary = open_boundary(self._session, self.images, self.epochs, gradual=gradual)

    @property
    def begins_with_activations(self) -> bool:
        """Whether a step begins at the end of the frozen part, with what that part has given."""
        return self._boundary is not None

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, int64 [N]."""
        return np.array([image.label for image in self.images], dtype=np.int64)

    def batches(self, epoch: int) -> list[list[ImageRecord]]:
        """Return the images of each step of an epoch; one after the run's last, where a range test goes, is whole."""
        left = self.steps - (epoch - 1) * self.steps_per_epoch
        return self._whole(epoch)[:left] if left > 0 else self._whole(epoch)

    def _whole(self, epoch: int) -> list[list[ImageRecord]]:
        size, seed = self._session.batch_size, self._session.recipe.seed
        if self._session.recipe.train.sampling == "balanced":
            return balanced_batches(self.images, self.labels.tolist(), size, seed, epoch)
        return epoch_batches(self.images, size, seed, epoch)

    def prepare(self, epoch: int) -> None:
        """Keep what the last epoch had to decode again, and compute the activations that this one needs, if not kept.

        Raises:
            DataError: an image changed since the run began.
            Stopped: a signal came; what is done so far is kept.
        """
        with self._session.world.together():
            self._session.images.write_held()
        if self._boundary is None or not self._boundary.keeps:
            return
        with self._session.world.together():
            kept = self._boundary.fill(self.images, self._view(epoch), self._plainly(epoch))
        if not all(self._session.world.gather(kept)):
            self._session.observer.note("the frozen part is computed anew in each epoch from here on")
            self._boundary.keeps = False

    @contextmanager
    def inputs(self, epoch: int, done: int) -> Iterator[Iterator[Step]]:
        """Put the model in training mode and give the steps of an epoch after the first `done`.

        `x` of a step is what `model(x)` takes inside the body: normalised images [N, 3, H, W], or their activations
        at the boundary [N, ...].

        Raises (in all processes of the run, while it is iterated):
            DataError: an image changed since the run began.
            Stopped: a signal came.
        """
        freeze.train_mode(self._session.network.model)
        boundary = self._boundary
        steps = self._images(epoch, done) if boundary is None else self._activations(boundary, epoch, done)
        with closing(steps):  # a step that raises must not leave the network in two parts
            yield self._session.world.in_step(steps, self._session.raise_if_stopped)

    def _images(self, epoch: int, done: int) -> Steps:
        session = self._session
        shares = [session.world.share(items) for items in self._occurrences(epoch)[done:]]
        groups = [share.items or [(self.images[0], 0)] for share in shares]
        on_device = self._finishes_on_device
        batches = session.read(groups, lambda item: self._pixels(item[0], epoch, item[1], finished=not on_device))
        for share, batch in zip(shares, self._read(batches), strict=True):
            pixels_NHW3 = to_device(batch.pixels, session.device)
            if on_device:
                pixels_NHW3 = self._finished(pixels_NHW3, batch.items, epoch)
            x_NCHW = normalised(pixels_NHW3, session.card.preprocessing)
            images = [image for image, _ in batch.items]
            yield Step(images, x_NCHW, share.first, share.total, counts=bool(share.items))

    def _finished(self, pixels_NHW3: Tensor, items: Sequence[tuple[ImageRecord, int]], epoch: int) -> Tensor:
        settings, spec = self._session.augmentation, self._session.card.preprocessing
        seeds = [self._seed(image, epoch, repeat) for image, repeat in items]
        finishes = [finish_of(spec, settings, seed) for seed in seeds if settings is not None and seed is not None]
        return finished(pixels_NHW3, finishes, mean_colour(spec)) if finishes else pixels_NHW3

    def waited(self, share: float) -> None:
        """Hear for what share of an epoch the device waited; it then takes over what it can do of the augmentation."""
        session = self._session
        is_faster_there = session.device.type == "cuda" and session.recipe.run.augment == "auto"
        if not is_faster_there or share <= WAITS or self._boundary is not None or self._finishes_on_device:
            return
        if agrees(session.device, session.card.preprocessing):
            session.observer.note("the device waited for images: light and erasing are its own work from here on")
            self._finishes_on_device = True

    def _occurrences(self, epoch: int) -> list[list[tuple[ImageRecord, int]]]:
        """Return the images of each step, each with how often the epoch has shown it before."""
        seen: Counter[ImageRecord] = Counter()
        steps = []
        for images in self.batches(epoch):
            steps.append([(image, seen[image]) for image in images])
            seen.update(images)
        return steps

    def _activations(self, boundary: Boundary, epoch: int, done: int) -> Steps:
        shares = [self._session.world.share(batch) for batch in self.batches(epoch)[done:]]
        parts = [share.items or [self.images[0]] for share in shares]
        rows = boundary.rows(parts, self._view(epoch), self._plainly(epoch))
        for share, images, x in zip(shares, parts, rows, strict=True):
            self._session.raise_if_stopped()
            with boundary.cut.rest():
                yield Step(images, x, share.first, share.total, counts=bool(share.items))

    def _plainly(self, epoch: int) -> Callable[[Sequence[Sequence[ImageRecord]]], Iterator[Batch[ImageRecord]]]:
        """Return what reads images, each as this epoch's view of it."""
        return lambda groups: self._read(self._session.read(groups, lambda image: self._pixels(image, epoch)))

    def _read(self, batches: Iterator[Batch[Item]]) -> Iterator[Batch[Item]]:
        """Yield batches, all of which must have been read, and count the time that they are waited for."""
        while True:
            started = time.monotonic()
            batch = next(batches, None)
            self.seconds_reading += time.monotonic() - started
            if batch is None:
                return
            refuse_failures(batch)
            yield batch

    def _view(self, epoch: int) -> int:
        """Return which view of the images an epoch sees: a number of views come round again, fresh ones do not."""
        views = self._session.recipe.features.views
        return (epoch - 1) % views if isinstance(views, int) else epoch

    def _pixels(self, image: ImageRecord, epoch: int, repeat: int = 0, *, finished: bool = True) -> Pixels:
        """Read an image and return this epoch's view of it, another one for each repeat."""
        seed = self._seed(image, epoch, repeat)
        if seed is None:
            return self._session.evaluation_pixels(image)
        return self._session.images.augmented(image, seed, finished=finished)

    def _seed(self, image: ImageRecord, epoch: int, repeat: int = 0) -> int | None:
        """Return what draws this epoch's view of an image; None: it is the one that evaluation sees."""
        seed, view = self._session.recipe.seed, self._view(epoch)
        if view == PLAIN:
            return None
        if isinstance(self._session.recipe.features.views, int):
            return view_seed(image.sha256, view, seed)
        return seed_of(seed, "view", epoch, image.path, *((repeat,) if repeat else ()))


def refuse_failures(batch: Batch[Any]) -> None:
    """An image that could be read before and cannot be now has changed under the run.

    Raises:
        DataError: there is one.
    """
    if batch.failures:
        error: BadImageError = batch.failures[0][1]
        raise DataError(f"{error}; it could be read when the run began, so the data has changed since")
