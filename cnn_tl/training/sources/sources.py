"""The sources of a run's training images, in the first tier that has room for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from cnn_tl.core.device import is_out_of_memory
from cnn_tl.core.errors import BadImageError
from cnn_tl.core.formatting import counted
from cnn_tl.data.loader import in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.reading.jobs import Job
from cnn_tl.data.views import image_source
from cnn_tl.training.dataset import Dataset, changed_data
from cnn_tl.training.image_store import ImageStore
from cnn_tl.training.outcome import SourceReads
from cnn_tl.training.sources import tiers
from cnn_tl.training.sources.buffer import NoRoom, PixelBuffer
from cnn_tl.training.sources.reading import reading_or_decoding
from cnn_tl.training.sources.staging import Loaded, Staging
from cnn_tl.training.sources.tiers import Tier
from cnn_tl.training.views.source_batch import SourceBatch

Pixels = NDArray[np.uint8]
Groups = Sequence[Sequence[ImageRecord]]

CHUNK_BYTES = 32 * 2**20
"""Approximate size of the blocks in which sources are copied into a buffer."""


class Sources(ABC):
    """Gives the sources of any training images, group by group, on the device of the run.

    Attributes:
        reads: the tier, for the result.
        nbytes: memory that they occupy, in bytes; 0: they are read for each step.
    """

    reads: SourceReads
    nbytes: int = 0

    @abstractmethod
    def steps(self, groups: Groups) -> AbstractContextManager[Iterator[Loaded]]:
        """Yield an iterator over the sources of each group, in order; the groups must not be empty.

        Raises (while it is iterated):
            DataError: an image changed since the run began.
        """


class OnDevice(Sources):
    """All sources in one tensor on the device: a step is given by indices."""

    def __init__(self, buffer: PixelBuffer, positions: dict[str, int], device: torch.device) -> None:
        self._pixels, self._places = buffer.pixels, buffer.places
        self._positions, self._device, self.nbytes = positions, device, buffer.nbytes

    @contextmanager
    def steps(self, groups: Groups) -> Iterator[Iterator[Loaded]]:
        """Yield an iterator; the indices of all groups are copied at once."""
        wanted = [self._positions[image.sha256] for image in chain.from_iterable(groups)]
        places = np.ascontiguousarray(self._places[:, np.array(wanted, np.intp)])
        there = torch.from_numpy(places)
        if self._device.type == "cuda":
            there = there.pin_memory()
        there = there.to(self._device, non_blocking=True)
        sizes = list(map(tuple, places[1:].T.tolist()))

        def each() -> Iterator[Loaded]:
            end = 0
            for group in groups:
                start, end = end, end + len(group)
                yield Loaded(SourceBatch(self._pixels, *there[:, start:end]), sizes[start:end])

        yield each()


class InHostMemory(Sources):
    """All sources in one tensor in host memory, from which those of a step are copied ahead of it."""

    def __init__(self, buffer: PixelBuffer, positions: dict[str, int], staging: Staging) -> None:
        self._pixels, self._places = buffer.pixels.numpy(), buffer.places.T.tolist()
        self._positions, self._staging, self.nbytes = positions, staging, buffer.nbytes

    def steps(self, groups: Groups) -> AbstractContextManager[Iterator[Loaded]]:
        """Return a context manager that starts the copies."""
        return self._staging.ahead([self._source(image) for image in group] for group in groups)

    def _source(self, image: ImageRecord) -> Pixels:
        start, height, width = self._places[self._positions[image.sha256]]
        return self._pixels[start : start + height * width].reshape(height, width, 3)


class Streamed(Sources):
    """Sources that are read or decoded in each epoch, ahead of the step that uses them.

    Args:
        decode: decode all of them; False: only those that the cache lacks.
    """

    def __init__(self, store: ImageStore, workers: int, staging: Staging, *, decode: bool = False) -> None:
        self._store, self._workers, self._staging, self._decode = store, workers, staging, decode
        self._read = store.decoded_source if decode else store.source

    @contextmanager
    def steps(self, groups: Groups) -> Iterator[Iterator[Loaded]]:
        """Yield an iterator, and start to read."""

        def lacking() -> Container[ImageRecord]:
            images = set(chain.from_iterable(groups))
            return images if self._decode else self._store.lacking_sources(images)

        def job_of(image: ImageRecord) -> Job:
            return self._store.job(image, "source")

        images = reading_or_decoding(groups, self._read, lacking, job_of, image_source.pixels_of, self._workers)
        with images as found, self._staging.ahead(found) as loaded:
            yield _refusing_bad_images(loaded)


def open_sources(dataset: Dataset, images: Sequence[ImageRecord], device: torch.device) -> Sources:
    """Load the sources of images into the first tier that has room for them, and report which, and why.

    Every image must have been decoded once before (`Dataset.check_images`).

    Raises:
        DataError: an image changed since the run began.
        Stopped: a signal came.
    """
    run, store = dataset.run, dataset.images
    distinct = list({image.sha256: image for image in images}.values())
    expected, reasons = store.expected_source_bytes(distinct), []
    for tier in tiers.candidates(run):
        found = _opened(tier, dataset, distinct, expected, device)
        if isinstance(found, Sources):
            break
        reasons.append(f"{tier}: {found}")
    assert isinstance(found, Sources), "images can always be decoded"
    nbytes = found.nbytes or expected
    found.reads = SourceReads(tier, nbytes, "; ".join(reasons) or None)
    text = f"views are drawn on the device, from images {found.reads}"
    run.observer.note(f"{text} ({found.reads.reason})" if reasons else text)
    return found


def _opened(
    tier: Tier, dataset: Dataset, images: Sequence[ImageRecord], expected: int, device: torch.device
) -> Sources | str:
    """Return the sources in a tier, or why it has no room for them."""
    try:
        return _OPEN[tier](dataset, images, expected, device)
    except (RuntimeError, MemoryError) as error:  # another program may have taken what was free
        if not is_out_of_memory(error):
            raise
    return "memory ran out"


def _open_on_device(
    dataset: Dataset, images: Sequence[ImageRecord], expected: int, device: torch.device
) -> Sources | str:
    run = dataset.run
    if reason := tiers.no_room_on_device(expected, device, run.world):
        return reason
    buffer = PixelBuffer(expected // 3, tiers.most_on_device(device, run.world) // 3, device)
    if not _fill(buffer, dataset, images, device):
        return _LARGER
    return OnDevice(buffer, _positions(images), device)


def _open_in_host_memory(
    dataset: Dataset, images: Sequence[ImageRecord], expected: int, device: torch.device
) -> Sources | str:
    memory = dataset.images.memory
    if reason := tiers.no_room_in_memory(expected, memory.left):
        return reason
    host = torch.device("cpu")
    buffer = PixelBuffer(expected // 3, memory.left // 3, host)
    if not (_fill(buffer, dataset, images, host) and memory.take(buffer.nbytes)):
        return _LARGER
    return InHostMemory(buffer, _positions(images), Staging(device))


def _open_on_disk(
    dataset: Dataset, images: Sequence[ImageRecord], expected: int, device: torch.device
) -> Sources | str:
    store = dataset.images
    if not store.are_kept:
        return "data.keep_images is false"
    if lacking := len(store.lacking_sources(images)):
        return f"the cache lacks {counted(lacking, 'image')}"
    return Streamed(store, dataset.run.workers, Staging(device))


def _open_files(dataset: Dataset, images: Sequence[ImageRecord], expected: int, device: torch.device) -> Sources:
    store, forced = dataset.images, dataset.run.recipe.run.sources == "decode"
    return Streamed(store, dataset.run.workers, Staging(device), decode=forced)


_OPEN: dict[Tier, Callable[[Dataset, Sequence[ImageRecord], int, torch.device], Sources | str]] = {
    "device": _open_on_device,
    "pinned": _open_in_host_memory,
    "disk": _open_on_disk,
    "decode": _open_files,
}
"""Tier -> function that returns the sources in it, or why it has no room for them."""

_LARGER = "they take more memory than expected"


def _fill(buffer: PixelBuffer, dataset: Dataset, images: Sequence[ImageRecord], device: torch.device) -> bool:
    """Copy the sources of images into a buffer on the device; return whether there was room for all."""
    run, store = dataset.run, dataset.images
    each = max(1, 3 * buffer.room // len(images))
    groups = in_groups(images, max(1, CHUNK_BYTES // each))
    sources = Streamed(store, run.workers, Staging(device))
    try:
        with run.observer.task("loading images", len(images)), sources.steps(groups) as chunks:
            for chunk in chunks:
                run.raise_if_stopped()
                buffer.append(chunk.batch.pixels, chunk.sizes)
                run.observer.advance(len(chunk.sizes))
    except NoRoom:
        return False
    return True


def _positions(images: Sequence[ImageRecord]) -> dict[str, int]:
    return {image.sha256: number for number, image in enumerate(images)}


def _refusing_bad_images(loaded: Iterator[Loaded]) -> Iterator[Loaded]:
    try:
        yield from loaded
    except BadImageError as error:
        raise changed_data(error) from error
