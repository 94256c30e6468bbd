"""The images of a run: which are used, which were set aside, and how their pixels are read, checked and cached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from operator import itemgetter
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core import files
from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import warn_of_set_aside
from cnn_tl.data.data_warnings import blank_image_remarks
from cnn_tl.data.loader import Batch, in_groups, reading
from cnn_tl.data.manifest import ImageRecord, Manifest
from cnn_tl.data.reading.ahead import MEMORY, by_processes, decoding
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels, RandomView
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.training.context import R, Run
from cnn_tl.training.image_store import Form, ImageStore, Lacking, open_images
from cnn_tl.training.outcome import ImageReads

Item = TypeVar("Item")
Key = TypeVar("Key")
Other = TypeVar("Other", bound=ResolvedRecipe)
Pixels = NDArray[np.uint8]

CHECKED_AT_ONCE = 16
"""Images that are decoded, kept and counted together."""


@dataclass
class Selection:
    """The images that a run uses: the only mutable state that its datasets share.

    Attributes:
        manifest: replaced when an image turns out to be broken or blank while it is decoded.
    """

    manifest: Manifest


@dataclass(frozen=True)
class Checked:
    """The result of `Dataset.check_images`.

    Attributes:
        any_broken: whether an image was set aside.
        reads: how many images were decoded and how many were cached; None if decoded images are not kept.
    """

    any_broken: bool
    reads: ImageReads | None


@dataclass(frozen=True)
class _Begun:
    """Decoding that has begun before `check_images`; closing `stack` ends it."""

    forms: list[list[Form]]
    batches: Iterator[Batch[Form]]
    stack: ExitStack


class Dataset(Generic[R]):
    """The images of a run, read as its recipe says.

    Args:
        spec: preprocessing for evaluation.
        selection: shared by all datasets of a run.

    Attributes:
        run: its recipe decides how images are augmented, read and kept.
    """

    def __init__(self, run: Run[R], spec: Preprocessing, selection: Selection) -> None:
        self.run = run
        self._spec, self._selection = spec, selection
        self._begun: _Begun | None = None

    def of(self, run: Run[Other]) -> Dataset[Other]:
        """Return the dataset of the same images, with the same manifest, for a run with another recipe."""
        return Dataset(run, self._spec, self._selection)

    @property
    def manifest(self) -> Manifest:
        """The images in use at this moment."""
        return self._selection.manifest

    @cached_property
    def images(self) -> ImageStore:
        """The pixels of the images, cached if the run has a training loop and the recipe allows it."""
        return open_images(self.run, self._spec, self.file_of)

    @property
    def preprocessing(self) -> Preprocessing:
        """How `predict` reads images."""
        return self._spec

    def file_of(self, image: ImageRecord) -> ImageFile:
        """Return the image's file; `ImageFile.checked` refuses it if it is not the one that was scanned."""
        return ImageFile(self.manifest.file(image), image)

    def evaluation_pixels(self, image: ImageRecord) -> Pixels:
        """Return an image's pixels as `predict` reads them, uint8 [H, W, 3]; cached or not, they are the same."""
        return self.images.plain(image)

    def plain_job(self, image: ImageRecord) -> Job:
        """Return the job that reads an image as `predict` does, from its file."""
        return PlainPixels(self.file_of(image), self._spec)

    def view_job(self, image: ImageRecord, seed: int) -> Job:
        """Return the job that reads an image and makes the random view of it that `seed` draws, uint8 [H, W, 3].

        Mode freeze crops each view once, from the file. A loop crops many times, from a cached source
        (`ImageStore.augmented`).
        """
        settings = self.run.augmentation
        assert settings is not None, "the recipe asks for augmented views"
        return RandomView(self.file_of(image), self._spec, settings, seed)

    def read(self, groups: Sequence[Sequence[Item]], pixels_of: Callable[[Item], Pixels]) -> Iterator[Batch[Item]]:
        """Yield batches in order; see `reading`."""
        with self.reading(groups, pixels_of) as batches:
            yield from batches

    def read_plain(self, groups: Sequence[Sequence[ImageRecord]]) -> Iterator[Batch[ImageRecord]]:
        """Yield batches of images as `predict` reads them, in order, from the cache or from their files."""
        if self.images.are_kept:
            yield from self.read(groups, self.evaluation_pixels)
        else:
            with self.decoding(groups, self.plain_job, lambda image: image) as batches:
                yield from batches

    @contextmanager
    def reading(
        self, groups: Sequence[Sequence[Item]], pixels_of: Callable[[Item], Pixels], *, ahead: int = 2
    ) -> Iterator[Iterator[Batch[Item]]]:
        """Start reading by threads, up to `ahead` groups in advance, and yield an iterator over the batches in order.

        Raises (while it is iterated):
            DataError: an image cannot be read, and the recipe says `on_bad_image: fail`.
            Stopped: a signal came.
        """
        with reading(groups, pixels_of, workers=self.run.workers, ahead=ahead) as batches:
            yield self._checked(batches)

    @contextmanager
    def decoding(
        self,
        groups: Sequence[Sequence[Item]],
        job_of: Callable[[Item], Job],
        image_of: Callable[[Item], ImageRecord],
        *,
        ahead: int = 2,
    ) -> Iterator[Iterator[Batch[Item]]]:
        """Start to decode files by threads or processes, and yield an iterator over the batches in order.

        Args:
            image_of: item -> its image, to note that this is blank.
            ahead: groups that threads may decode in advance.

        Raises (while it is iterated): as `reading`.
        """
        options = {"workers": self.run.workers, "images": sum(map(len, groups)), "ahead": ahead}
        with decoding(groups, job_of, memory=MEMORY // self.run.world.local_size, **options) as batches:
            yield self._checked(self._noting_blank(batches, image_of))

    def _noting_blank(
        self, batches: Iterator[Batch[Item]], image_of: Callable[[Item], ImageRecord]
    ) -> Iterator[Batch[Item]]:
        for batch in batches:
            self.images.blank |= {image_of(item).path: kind for item, kind in batch.blank}
            yield batch

    def _checked(self, batches: Iterator[Batch[Item]]) -> Iterator[Batch[Item]]:
        for batch in batches:
            self.run.raise_if_stopped()
            if batch.failures and self.run.recipe.data.on_bad_image == "fail":
                raise DataError(f"{batch.failures[0][1]}; repair or remove it, or set data.on_bad_image: skip")
            yield batch

    def begin_decoding(self) -> None:
        """Start to decode what `check_images` will read, if processes do it, until `end_decoding` at the latest."""
        lacking = self.images.lacking(self._trained_on)
        forms = self._own_forms(lacking)
        if by_processes(self.run.workers, sum(map(len, forms))):
            stack = ExitStack()
            batches = stack.enter_context(self.decoding(forms, self._form_job, itemgetter(0)))
            self._begun = _Begun(forms, batches, stack)

    def end_decoding(self) -> None:
        """End what `begin_decoding` has begun and nobody has read."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.stack.close()

    @property
    def _trained_on(self) -> tuple[ImageRecord, ...]:
        return self.manifest.of("train") + self.manifest.of("val")

    def _own_forms(self, lacking: Lacking) -> list[list[Form]]:
        """Return this process's share of what must be decoded."""
        return _forms([image for image in lacking if self.run.world.owns_locally(image.sha256)], lacking)

    @contextmanager
    def _decoding_forms(self, forms: list[list[Form]]) -> Iterator[Iterator[Batch[Form]]]:
        """Continue what `begin_decoding` has begun, if it is the same; else begin now."""
        begun, self._begun = self._begun, None
        if begun is not None:
            with begun.stack:
                if begun.forms == forms:
                    yield begun.batches
                    return
        with self.decoding(forms, self._form_job, itemgetter(0)) as batches:
            yield batches

    def check_images(self, images: Sequence[ImageRecord] | None = None, *, keep: bool = True) -> Checked:
        """Decode images once and set the broken ones aside, before hours are spent on training.

        For a training loop the decoded images are cached; images that are cached already are not decoded again.

        Args:
            images: by default all of the training and validation splits.
            keep: False caches nothing.

        Raises:
            DataError: the remaining images are not enough to train on.
            Stopped: a signal came.
        """
        images = self._trained_on if images is None else images
        run, lacking, broken = self.run, self.images.lacking(images), []
        keep = keep and self.images.are_kept
        forms = self._own_forms(lacking)
        total = len(images) - len(lacking) + len({image for group in forms for image, _ in group})
        with (
            run.world.together(),
            run.observer.task("preparing images" if keep else "checking images", total),
            self.images.keeper(write=keep) as keeper,
            self._decoding_forms(forms) as batches,
        ):
            if len(lacking) < len(images):
                run.observer.advance(len(images) - len(lacking))
            for batch in batches:
                keeper.keep(batch.items, batch.rows)
                broken += [(image, error) for (image, _), error in batch.failures]
                run.observer.advance(len({image for image, _ in batch.items + [form for form, _ in batch.failures]}))
        broken = self._found_by_all(broken)
        self.set_aside(broken)
        self.report_blank_images()
        return Checked(bool(broken), self._reads(len(lacking), len(images)) if keep else None)

    def _form_job(self, form: Form) -> Job:
        return self.images.job(*form)

    def _found_by_all(self, found: Sequence[tuple[Key, Item]]) -> list[tuple[Key, Item]]:
        """Merge the findings of all processes of the run, each image once."""
        return list(dict(chain.from_iterable(self.run.world.gather(list(found)))).items())

    def _reads(self, decoded: int, total: int) -> ImageReads:
        """Count decoded and cached images, and report if the cache could not store all of them."""
        images = self.manifest.of("train") + self.manifest.of("val")
        again, in_memory = len(self.images.lacking(images)), self.images.in_memory(images)
        if self.images.refusals and (again or in_memory):
            self.run.observer.note(
                f"{self.images.refusals[0]}; {in_memory:,} are held in memory and {again:,} are decoded in each epoch"
            )
        return ImageReads(decoded=decoded, from_cache=total - decoded, decoded_in_each_epoch=again)

    def set_aside(self, failures: Sequence[tuple[ImageRecord, BadImageError]]) -> None:
        """Remove images that could not be decoded from the manifest.

        Raises:
            DataError: the remaining images are not enough to train on.
        """
        if not failures:
            return
        warn_of_set_aside(self.run.observer, [str(error) for _, error in failures])
        has_val = bool(self.manifest.of("val"))  # not yet where twins are looked for before the splits are chosen
        self._selection.manifest = self.manifest.without((image, error.reason) for image, error in failures)
        if has_val:
            self.manifest.check()
        else:
            self.manifest.check_classes()
        self._write_manifest()  # so that a resumed run leaves them out too

    def report_blank_images(self) -> None:
        """Warn of blank images among those decoded since the last report, and note them in the manifest."""
        found = self.images.blank
        lines = blank_image_remarks(self._found_by_all(list(found.items())))
        found.clear()
        for text in lines:
            self.run.observer.warn(text)
        if lines:
            self._selection.manifest = replace(self.manifest, notes=(*self.manifest.notes, *lines))
            self._write_manifest()

    def _write_manifest(self) -> None:
        """Write manifest.json if the run has begun; a plan writes nothing."""
        if self.run.world.is_first and self.run.folder.recipe.exists():
            files.write_json(self.run.folder.manifest, self.manifest.to_json())


def _forms(images: Sequence[ImageRecord], lacking: Lacking) -> list[list[Form]]:
    """Return groups of what must be decoded, with all forms of an image in one of them."""
    return [
        [(image, kind) for image in group for kind in lacking[image]] for group in in_groups(images, CHECKED_AT_ONCE)
    ]


def refuse_failures(batch: Batch[Item]) -> None:
    """Refuse a batch with an image that could be read when the run began and cannot be read now.

    Raises:
        DataError: the batch has one.
    """
    if batch.failures:
        raise changed_data(batch.failures[0][1])


def changed_data(error: BadImageError) -> DataError:
    """Return the error for an image that could be read when the run began and cannot be read now."""
    return DataError(f"{error}; it could be read when the run began, so the data has changed since")
