"""What every way of training works with: the recipe, the images, the network, the machine, the run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeGuard

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar

from cnn_tl.core import files
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import Precision, pick_device
from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.core.processes import ALONE, World
from cnn_tl.core.progress import Observer, warn_of_set_aside
from cnn_tl.core.signals import StopRequest
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.loader import Batch, in_groups, reading
from cnn_tl.data.manifest import ImageRecord, Manifest
from cnn_tl.data.remarks import blank_image_remarks
from cnn_tl.data.views import transforms
from cnn_tl.data.views.augment import Augmentation, augment
from cnn_tl.heads import FittedHead
from cnn_tl.networks.info import NetworkInfo, Remembered
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.tracking.tracker import Tracking
from cnn_tl.training.images import ImageStore, open_images
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.step import precision as number_format
from cnn_tl.training.step.schedule import batches_in_epoch

if TYPE_CHECKING:
    import torch

    from cnn_tl.networks.backbone import Network

Item = TypeVar("Item")
Key = TypeVar("Key")
R = TypeVar("R", bound=ResolvedRecipe, covariant=True, default=ResolvedRecipe)
Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]

CHECKED_AT_ONCE = 16


def has_loop(session: Session) -> TypeGuard[Session[LoopRecipe]]:
    """Say whether the run has a training loop."""
    return isinstance(session.recipe, LoopRecipe)


@dataclass
class Session(Generic[R]):
    """One training run in the making.

    Attributes:
        manifest: shrinks when an image turns out to be broken while it is decoded.
        remembered: the network in words and numbers, with the tensors of its backbone.
        memory: the folder where what is known of the network is kept between runs; it may not exist.
        build: makes the network itself; it takes torch and seconds, so it is called only where the network runs.
        stop: set by SIGINT and SIGTERM.
        facts: what the run learns about itself, for result.json.
        head: the head that mode freeze has fitted.
        tracking: the open trackers; there may be none.
        world: the processes that make this run together.
        is_resumed: the run goes on with what lies in its folder.
    """

    recipe: R
    manifest: Manifest
    remembered: Remembered
    memory: Path
    build: Callable[[], Network]
    run: RunFolder
    observer: Observer
    stop: StopRequest = field(default_factory=StopRequest)
    facts: dict[str, Any] = field(default_factory=dict)
    head: FittedHead | None = None
    leaves_traces: bool = True
    tracking: Tracking = field(default_factory=Tracking)
    world: World = ALONE
    is_resumed: bool = False

    @property
    def card(self) -> NetworkInfo:
        """What there is to know about the network without building it."""
        return self.remembered.info

    @cached_property
    def network(self) -> Network:
        """The network itself; building it takes torch and seconds."""
        return self.build()

    @cached_property
    def device(self) -> torch.device:
        """Where the network runs."""
        return pick_device(self.recipe.run.device)

    @property
    def workers(self) -> int:
        """How many threads read images; 0: the main one does."""
        wanted = self.recipe.run.workers
        return max(1, default_workers() // self.world.local_size) if wanted is None else wanted

    @property
    def read_at_once(self) -> int:
        """How many images are read at the same time."""
        return min(max(1, self.workers), default_workers())

    @property
    def batch_size(self: Session[LoopRecipe]) -> int:
        """How many images make a step of the training loop."""
        return self.recipe.train.batch_size

    @property
    def steps_per_epoch(self: Session[LoopRecipe]) -> int:
        """How many steps an epoch of the training loop has."""
        return batches_in_epoch(len(self.manifest.of("train")), self.batch_size)

    @property
    def epochs(self: Session[LoopRecipe]) -> int:
        """How many epochs the training loop has, the last of which may be cut short."""
        return self.recipe.train.length.epochs(self.steps_per_epoch)

    @cached_property
    def precision(self: Session[LoopRecipe]) -> Precision:
        """The number format of the training loop; validation is always float32, as in predict."""
        began = number_format.began_in(self.run.checkpoints, self.device) if self.is_resumed else None
        known = (self.recipe, self.network, self.device, self.memory, self.observer)
        return self.world.first(lambda: number_format.of_the_loop(*known, began=began, write=self.leaves_traces))

    @property
    def augmentation(self) -> Augmentation | None:
        """How training images are varied; None: they are not."""
        chosen = self.recipe.augment
        return None if chosen is None else Augmentation(**chosen.model_dump(exclude={"mixup", "cutmix"}))

    @cached_property
    def images(self) -> ImageStore:
        """The pixels of images, kept where a training loop runs and the recipe allows it."""
        return open_images(
            self.recipe,
            self.run,
            self.observer,
            self.card.preprocessing,
            self.augmentation,
            self.file_of,
            read_only=not self.leaves_traces,
            sharers=self.world.local_size,
        )

    def file_of(self, image: ImageRecord) -> Path:
        """Return the image's file, after a cheap check that it is the one that was scanned.

        Raises:
            DataError: it has changed or vanished since.
        """
        self.manifest.verify(image)
        return self.manifest.file(image)

    def evaluation_pixels(self, image: ImageRecord) -> Pixels:
        """Return an image's pixels the way predict reads them, uint8 [H, W, 3]; kept ones are the same."""
        return self.images.plain(image)

    def augmented_pixels(self, image: ImageRecord, seed: int) -> Pixels:
        """Read an image and return the random view of it that `seed` draws, uint8 [H, W, 3].

        Mode freeze cuts it from the whole image, once; a loop cuts often, and from a source (`ImageStore.augmented`).
        """
        spec, settings = self.card.preprocessing, self.augmentation
        assert settings is not None, "the recipe is resolved, and asks for augmented views"
        file = self.file_of(image)
        decoded = read_image(file, spec, draft=transforms.draft_size(spec, settings.crop_scale_min**-0.5))
        self.images.blank.check_image(image.path, file, decoded)
        return augment(decoded, spec, settings, seed)

    def read(self, groups: Sequence[Sequence[Item]], pixels_of: Callable[[Item], Pixels]) -> Iterator[Batch[Item]]:
        """Yield batches in order; see `reading`."""
        with self.reading(groups, pixels_of) as batches:
            yield from batches

    @contextmanager
    def reading(
        self, groups: Sequence[Sequence[Item]], pixels_of: Callable[[Item], Pixels], *, ahead: int = 2
    ) -> Iterator[Iterator[Batch[Item]]]:
        """Begin to read, `ahead` groups before the first is asked for, and give an iterator over the batches in order.

        The iterator ends at once when a signal asks for it, or a bad image by the recipe's policy.

        Raises (while it is iterated):
            DataError: an image cannot be read, and the recipe says `on_bad_image: fail`.
            Stopped: a signal came.
        """

        def checked(batches: Iterator[Batch[Item]]) -> Iterator[Batch[Item]]:
            for batch in batches:
                self.raise_if_stopped()
                if batch.failures and self.recipe.data.on_bad_image == "fail":
                    raise DataError(f"{batch.failures[0][1]}; mend or remove it, or set data.on_bad_image: skip")
                yield batch

        with reading(groups, pixels_of, workers=self.workers, ahead=ahead) as batches:
            yield checked(batches)

    def check_images(self, images: Sequence[ImageRecord] | None = None, *, keep: bool = True) -> bool:
        """Decode images once and set the broken ones aside, before hours are spent on the others.

        A training loop keeps what it decodes; what was kept before is whole and is not decoded again.

        Args:
            images: all of the training and validation part by default.
            keep: False leaves no trace.

        Returns:
            Whether any was set aside.

        Raises:
            DataError: what is left cannot be trained on.
            Stopped: a signal came.
        """
        if images is None:
            images = self.manifest.of("train") + self.manifest.of("val")
        lacking, broken = self.images.lacking(images), []
        keep = keep and self.images.are_kept
        mine = [image for image in lacking if self.world.owns_locally(image.sha256)]
        total = len(images) - len(lacking) + len(mine)
        with (
            self.world.together(),
            self.observer.task("preparing images" if keep else "checking images", total),
            self.images.keeper(lacking, write=keep) as keeper,
        ):
            if len(lacking) < len(images):
                self.observer.advance(len(images) - len(lacking))
            for batch in self.read(in_groups(mine, CHECKED_AT_ONCE), keeper.decode):
                keeper.keep(batch.items)
                broken += batch.failures
                self.observer.advance(len(batch.items) + len(batch.failures))
        broken = self.found_by_all(broken)
        self.set_aside(broken)
        self.remark_on_looks()
        if keep:
            self._account_for(len(lacking), len(images))
        return bool(broken)

    def found_by_all(self, found: Sequence[tuple[Key, Item]]) -> list[tuple[Key, Item]]:
        """Return what any process of the run has found out about images, each image once."""
        return list(dict(chain.from_iterable(self.world.gather(list(found)))).items())

    def _account_for(self, decoded: int, total: int) -> None:
        """Keep for result.json what was decoded, and say if not every image is kept."""
        images = self.manifest.of("train") + self.manifest.of("val")
        anew, in_memory = len(self.images.lacking(images)), self.images.in_memory(images)
        self.facts["images"] = {"decoded": decoded, "from_cache": total - decoded, "decoded_in_each_epoch": anew}
        if self.images.refusals and (anew or in_memory):
            self.observer.note(
                f"{self.images.refusals[0]}; {in_memory:,} are held in memory and {anew:,} are decoded in each epoch"
            )

    def set_aside(self, failures: list[tuple[ImageRecord, BadImageError]]) -> None:
        """Take images that could not be decoded out of the manifest.

        Raises:
            DataError: what is left cannot be trained on.
        """
        if not failures:
            return
        warn_of_set_aside(self.observer, [str(error) for _, error in failures])
        self.manifest = self.manifest.without((image, error.reason) for image, error in failures)
        self.manifest.check()
        self._write_manifest()  # a resumed run leaves them out too

    def remark_on_looks(self) -> None:
        """Name the images that were decoded lately and show nothing; the manifest keeps the remark."""
        found = self.images.blank.found
        lines = blank_image_remarks(self.found_by_all(list(found.items())))
        found.clear()
        for text in lines:
            self.observer.warn(text)
        if lines:
            self.manifest = replace(self.manifest, notes=(*self.manifest.notes, *lines))
            self._write_manifest()

    def _write_manifest(self) -> None:
        """Write it where there is a run by now; a plan writes nothing."""
        if self.world.is_first and self.run.recipe.exists():
            files.write_json(self.run.manifest, self.manifest.to_json())

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write all rows of metrics so far, into the run folder and to the trackers.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        if self.world.is_first:
            self.run.write_metrics(rows)
            self.tracking.rows(rows)

    def raise_if_stopped(self) -> None:
        """End the run with the line that says how to go on, if a signal has come."""
        self.stop.raise_if_asked(f"stopped; go on with: {self.resume_command}")

    @property
    def resume_command(self) -> str:
        """The command that goes on with this run."""
        return self.run.resume_command
