"""The batches of an epoch: one view of each image, as normalised pixels or as cached activations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.core.device import Precision
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.views.augment import View, draw_view
from cnn_tl.features.cache_keys import PLAIN, view_seed
from cnn_tl.networks import freeze_policies
from cnn_tl.networks.backbone import normalised, to_device
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.dataset import Dataset, Pixels, refuse_failures
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop.activations import Activations, Read, open_activations
from cnn_tl.training.outcome import ActivationReads, SourceReads
from cnn_tl.training.sources.device_views import DeviceViews
from cnn_tl.training.step.loss import Step
from cnn_tl.training.step.schedule import balanced_batches, epoch_batches, loop_length

Steps = Generator[Step, None, None]

Occurrence = tuple[ImageRecord, int]
"""An image of a step, and how often it has occurred in the epoch before."""


class Batches:
    """The training images of a run, epoch by epoch.

    Args:
        device_views: random views that the device draws; None: threads draw them, or there are none.

    Attributes:
        images: the training split.
        length: number of steps and epochs of the run.
    """

    def __init__(
        self, dataset: Dataset[LoopRecipe], network: LazyNetwork, device_views: DeviceViews | None = None
    ) -> None:
        self.images = dataset.manifest.of("train")
        self.length = loop_length(dataset.run, dataset.manifest)
        self._dataset, self._network, self._device_views = dataset, network, device_views
        self._run, self._recipe = dataset.run, dataset.run.recipe
        self._activations: Activations | None = None

    def open(self, precision: Precision, *, gradual: bool = False) -> ActivationReads | None:
        """Decide whether steps start from activations of the frozen part; the parameters must be frozen already.

        Args:
            precision: of the training steps.
            gradual: more of the network trains in a later epoch.

        Returns:
            Whether activations are cached; None if nothing is frozen.
        """
        self._activations, reads = open_activations(
            self._dataset, self._network, self.images, self.length.epochs, precision, gradual=gradual
        )
        return reads

    @property
    def starts_at_activations(self) -> bool:
        """Whether steps start from the activations of the frozen part."""
        return self._activations is not None

    @property
    def sources(self) -> SourceReads | None:
        """Where the sources of random views lay; None: threads drew the views, or there were none."""
        return None if self._device_views is None else self._device_views.reads

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, int64 [N]."""
        return np.array([image.label for image in self.images], dtype=np.int64)

    def of_epoch(self, epoch: int) -> list[list[ImageRecord]]:
        """Return the images of each step of an epoch; epochs after the last, for a range test, are not cut short."""
        size, seed = self._run.batch_size, self._recipe.seed
        if self._recipe.train.sampling == "balanced":
            whole = balanced_batches(self.images, self.labels.tolist(), size, seed, epoch)
        else:
            whole = epoch_batches(self.images, size, seed, epoch)
        left = self.length.steps - (epoch - 1) * self.length.steps_per_epoch
        return whole[:left] if left > 0 else whole

    def prepare(self, epoch: int) -> None:
        """Cache the images that the last epoch had to decode again, and compute this epoch's missing activations.

        Raises:
            DataError: an image changed since the run began.
            Stopped: a signal came; the activations computed so far are cached.
        """
        world = self._run.world
        with world.together():
            self._dataset.images.write_held()
        if self._activations is None or not self._activations.keeps:
            return
        with world.together():
            kept = self._activations.fill(self.images, self._view(epoch), self._reader(epoch))
        if not all(world.gather(kept)):
            self._run.observer.note("the frozen part is computed in each epoch from here on")
            self._activations.keeps = False

    @contextmanager
    def steps(self, epoch: int, done: int) -> Iterator[Iterator[Step]]:
        """Put the model in training mode and yield an iterator over the steps of an epoch after the first `done`.

        `x` of a step is the input of the model inside the body: normalised images [N, 3, H, W], or activations of the
        frozen part [N, ...].

        Raises (in all processes of the run, while it is iterated):
            DataError: an image changed since the run began.
            Stopped: a signal came.
        """
        freeze_policies.train_mode(self._network.model)
        found = self._activations
        steps = self._of_images(epoch, done) if found is None else self._of_activations(found, epoch, done)
        with closing(steps):  # the network is whole again even if a step raises
            yield self._run.world.in_step(steps, self._run.raise_if_stopped)

    @contextmanager
    def as_in_a_step(self) -> Iterator[None]:
        """Inside the block, the model takes what steps give it, in training mode; not while `steps` is iterated."""
        freeze_policies.train_mode(self._network.model)
        with nullcontext() if self._activations is None else self._activations.split.rest():
            yield

    def _of_images(self, epoch: int, done: int) -> Steps:
        spec = self._network.info.preprocessing
        shares = [self._run.world.share(items) for items in self._occurrences(epoch)[done:]]
        groups = [share.items or [(self.images[0], 0)] for share in shares]
        with closing(self._views(groups, epoch)) as views:  # threads that read ahead end even if a step raises
            for share, group, pixels_NHW3 in zip(shares, groups, views, strict=True):
                x_NCHW = normalised(pixels_NHW3, spec)
                yield Step([image for image, _ in group], x_NCHW, share.first, share.total, counts=bool(share.items))

    def _of_activations(self, found: Activations, epoch: int, done: int) -> Steps:
        shares = [self._run.world.share(batch) for batch in self.of_epoch(epoch)[done:]]
        groups = [share.items or [self.images[0]] for share in shares]
        rows = found.rows(groups, self._view(epoch), self._reader(epoch))
        for share, images, x in zip(shares, groups, rows, strict=True):
            self._run.raise_if_stopped()
            with found.split.rest():
                yield Step(images, x, share.first, share.total, counts=bool(share.items))

    def _occurrences(self, epoch: int) -> list[list[Occurrence]]:
        """Return the images of each step, each with the number of earlier occurrences in the epoch."""
        seen: Counter[ImageRecord] = Counter()
        steps = []
        for images in self.of_epoch(epoch):
            steps.append([(image, seen[image]) for image in images])
            seen.update(images)
        return steps

    def _reader(self, epoch: int) -> Read:
        """Return a function that yields the view of this epoch of each image, group by group."""
        return lambda groups: self._views([[(image, 0) for image in group] for group in groups], epoch)

    def _views(self, groups: Sequence[Sequence[Occurrence]], epoch: int) -> Generator[Tensor, None, None]:
        """Yield the pixels of each group on the device, uint8 [N, H, W, 3], in the views of this epoch.

        Random views are drawn by the device if there are `DeviceViews`; all others, and plain ones, by threads.

        Raises (while it is iterated):
            DataError: an image changed since the run began.
            Stopped: a signal came.
        """
        if self._view(epoch) == PLAIN or self._device_views is None:
            for batch in self._dataset.read(groups, lambda item: self._pixels(item[0], epoch, item[1])):
                refuse_failures(batch)
                yield to_device(batch.pixels, self._network.device)
            return
        settings, spec = self._run.augmentation, self._network.info.preprocessing
        assert settings is not None, "plain views are not drawn"

        def draw(item: Occurrence, width: int, height: int) -> View:
            seed = self._seed(item[0], epoch, item[1])
            assert seed is not None, "only random views are drawn"
            return draw_view(width, height, spec, settings, seed)

        yield from self._device_views.of(groups, itemgetter(0), draw)

    def _view(self, epoch: int) -> int:
        """Return the number of the view that an epoch uses: a fixed number of views repeats, fresh ones do not."""
        views = self._recipe.features.views
        return (epoch - 1) % views if isinstance(views, int) else epoch

    def _pixels(self, image: ImageRecord, epoch: int, repeat: int = 0) -> Pixels:
        """Read an image in its view of this epoch, a different one for each repeat."""
        seed = self._seed(image, epoch, repeat)
        if seed is None:
            return self._dataset.evaluation_pixels(image)
        return self._dataset.images.augmented(image, seed)

    def _seed(self, image: ImageRecord, epoch: int, repeat: int = 0) -> int | None:
        """Return the seed of this epoch's view of an image; None: the plain view, as in evaluation."""
        seed, view = self._recipe.seed, self._view(epoch)
        if view == PLAIN:
            return None
        if isinstance(self._recipe.features.views, int):
            return view_seed(image.sha256, view, seed)
        return seed_of(seed, "view", epoch, image.path, *((repeat,) if repeat else ()))
