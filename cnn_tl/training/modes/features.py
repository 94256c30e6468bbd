"""The features that a run needs: what the cache has of them, what must be computed, and both as arrays for the head.

Training images pass the network in the fastest number format that the machine has; validation images in float32,
uncompiled, so that the accuracy reported is the one that predict gives, image by image.

An image is known by its content: copies of one another have one row, and it is computed once.

Shapes: N images, V views of each, D features.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.cache.space import Space
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.core.formatting import counted
from cnn_tl.data.loader import Batch, in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.cache_keys import PLAIN, row_key, space_facts, view_seed
from cnn_tl.features.speed import BATCH_SIZE, Speeds, Way
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Pixels, Session

Features = NDArray[np.float32]

CHECKED_AT_ONCE = 1024
READ_AHEAD = 10
"""Batches that may be decoded before the first is used: what the readers do while torch is loaded."""

EXACT = Way("fp32")


class OtherDevice(Exception):  # noqa: N818 - never leaves mode freeze
    """The device is not the one that was measured, and under whose name features would be kept."""


@dataclass(frozen=True)
class Wanted:
    """One view of one image."""

    image: ImageRecord
    view: int


@dataclass
class Part:
    """The features of the training part, or of the validation part.

    Attributes:
        way: how they are computed. speeds: of the device that computes them.
        space: where the cache keeps them.
        missing: what it has not, or not whole; once for each content.
        spare: rows that were computed and that the cache would not keep, by key.
        batch_size: images that pass the network at once.
        in_memory: hold what is computed in `spare` also where the cache keeps it.
    """

    session: Session[FreezeRecipe]
    images: tuple[ImageRecord, ...]
    views: int
    way: Way
    speeds: Speeds
    space: Space
    missing: list[Wanted] = field(default_factory=list)
    spare: dict[bytes, Features] = field(default_factory=dict)
    batch_size: int = BATCH_SIZE
    in_memory: bool = False

    def __len__(self) -> int:
        """Return V."""
        return self.views

    def __getitem__(self, view: int) -> Features:
        """Return one view of every image, float32 [N, D]; what the cache has lost since is computed again.

        Raises:
            DataError: an image that is needed for that has changed or vanished.
            OtherDevice: the device is another one than that of the features which are still there.
            Stopped: a signal came.
        """
        keys = [self.key(Wanted(image, view)) for image in self.images]
        features_ND, lacking = self.space.gather(keys)
        lost = {keys[i]: Wanted(self.images[i], view) for i in lacking if keys[i] not in self.spare}
        if lost:
            self._compute_again(list(lost.values()))
        for index in lacking:
            features_ND[index] = self.spare[keys[index]]
        return features_ND

    def _compute_again(self, lost: list[Wanted]) -> None:
        features = counted(len(lost), "feature")
        self.session.observer.note(f"the cache has lost {features} since the run began; computed again")
        with self.session.observer.task("features", len(lost)):
            done = embed(self.session, [replace(self, missing=lost, in_memory=True)], self.batch_size)
        if done.broken:
            raise DataError(str(next(iter(done.broken.values()))))

    def key(self, wanted: Wanted) -> bytes:
        """Return the row's key."""
        return row_key(wanted.image.sha256, wanted.view, self.session.recipe.seed, self.session.augmentation)

    def without(self, broken: set[str]) -> Part:
        """Return the part without images that could not be read."""
        images = tuple(image for image in self.images if image.path not in broken)
        return replace(self, images=images, missing=[])

    def leave_to(self, other: Part) -> None:
        """Leave out of `missing` what `other`, which is computed before, has to compute anyway."""
        if self.space is other.space:
            theirs = {other.key(wanted) for wanted in other.missing}
            self.missing = [wanted for wanted in self.missing if self.key(wanted) not in theirs]
            self.spare = other.spare

    @property
    def wanted(self) -> int:
        """How many rows there are when all are there."""
        return self.views * len({image.sha256 for image in self.images})


def part_of(
    session: Session[FreezeRecipe],
    cache: FeatureCache,
    images: Sequence[ImageRecord],
    views: int,
    way: Way,
    speeds: Speeds,
) -> Part:
    """Look up what the cache has; every row is read and checked, so what it has is whole."""
    facts = space_facts(
        session.card,
        precision=way.precision,
        device=speeds.device,
        hardware=speeds.hardware,
        compiled=way.compiled,
    )
    space = cache.space(facts, shape=(session.card.num_features,))
    part = Part(session, tuple(images), views, way, speeds, space)
    distinct = {image.sha256: image for image in part.images}.values()
    rows = [Wanted(image, view) for view in range(views) for image in distinct]
    for start in range(0, len(rows), CHECKED_AT_ONCE):
        chunk = rows[start : start + CHECKED_AT_ONCE]
        _, lacking = space.gather([part.key(wanted) for wanted in chunk])
        part.missing += [chunk[index] for index in lacking]
    return part


@dataclass
class Embedded:
    """What embedding did and how long it took.

    Attributes:
        rows: features computed.
        broken: the images that could not be read.
        decode_seconds: processor time of the readers, added up. forward_seconds: in the network.
        seconds: from the first batch to the last, without loading torch.
    """

    rows: int = 0
    broken: dict[ImageRecord, BadImageError] = field(default_factory=dict)
    decode_seconds: float = 0.0
    forward_seconds: float = 0.0
    seconds: float = 0.0

    def facts(self, workers: int) -> dict[str, float]:
        """Return images a second: of the readers alone, of the network alone, and of both together.

        That of the readers follows from their processor time, so readers beyond the number of cores add nothing to it.
        """
        if not self.rows:
            return {}
        at_once = min(workers, default_workers())
        return {
            "decode_images_per_second": round(self.rows * at_once / max(self.decode_seconds, 1e-9), 1),
            "forward_images_per_second": round(self.rows / max(self.forward_seconds, 1e-9), 1),
            "images_per_second": round(self.rows / max(self.seconds, 1e-9), 1),
        }

    def broken_of(
        self, session: Session[FreezeRecipe], images: Sequence[ImageRecord]
    ) -> list[tuple[ImageRecord, BadImageError]]:
        """Return which of the images are broken: those that could not be read, and their copies."""
        reasons = {image.sha256: error.reason for image, error in self.broken.items()}
        return [
            (image, BadImageError(session.manifest.file(image), reasons[image.sha256]))
            for image in dict.fromkeys(images)
            if image.sha256 in reasons
        ]


def merged(parts: Sequence[Embedded]) -> Embedded:
    """Return what several processes did side by side."""
    broken: dict[ImageRecord, BadImageError] = {}
    for part in parts:
        broken |= part.broken
    return Embedded(
        rows=sum(part.rows for part in parts),
        broken=broken,
        decode_seconds=sum(part.decode_seconds for part in parts),
        forward_seconds=max(part.forward_seconds for part in parts),
        seconds=max(part.seconds for part in parts),
    )


def share_of(part: Part) -> Part:
    """Return the part with what falls to this process of what it lacks.

    The first process needs the features, so only what that one lacks is computed; what this one's cache has is not, and
    is brought to it as it is.
    """
    world = part.session.world
    if world.is_alone:
        return part
    needed = set(world.first(lambda: [part.key(wanted) for wanted in part.missing]))
    mine = [wanted for wanted in part.missing if world.owns(wanted.image.sha256) and part.key(wanted) in needed]
    return replace(part, missing=mine)


def bring_together(part: Part) -> None:
    """Give the first process of a run the rows that others have computed and that no cache of its own has.

    On one machine, or on a disk that all machines see, the cache has them all.
    """
    world = part.session.world
    if world.is_alone:
        return
    part.space.refresh()
    keys = [part.key(wanted) for wanted in part.missing]
    lacking = world.first(lambda: [key for key in keys if key not in part.space and key not in part.spare])
    for chunk in in_groups(lacking, CHECKED_AT_ONCE):
        rows = {key: part.spare[key] if key in part.spare else part.space.read(key) for key in chunk}
        for others in world.gather({key: row for key, row in rows.items() if row is not None}):
            if world.is_first:
                part.spare |= others


def embed(session: Session[FreezeRecipe], parts: Sequence[Part], batch_size: int) -> Embedded:
    """Compute what the parts lack, one after the other, and hand it to the cache.

    The readers begin before torch is there, and are busy while it is loaded.

    Raises:
        DataError: a broken image, and the recipe says `on_bad_image: fail`; or files that changed.
        OtherDevice: the device is not the one that was measured.
        Stopped: a signal came; what is done so far is kept.
    """
    done = Embedded()
    for part in parts:
        part.batch_size = batch_size
    groups = [in_groups(part.missing, batch_size) for part in parts]
    if not any(groups):
        return done
    decode_seconds: list[float] = []

    def pixels_of(wanted: Wanted) -> Pixels:
        started = time.thread_time()
        try:
            return _pixels(session, wanted)
        finally:
            decode_seconds.append(time.thread_time() - started)

    with session.reading(list(chain.from_iterable(groups)), pixels_of, ahead=READ_AHEAD) as batches:
        session.network, session.device  # noqa: B018 - torch is loaded here, and the network built
        if not all(part.speeds.is_of(session.device) for part in parts):
            raise OtherDevice
        started = time.perf_counter()
        for part, own in zip(parts, groups, strict=True):
            _embed_part(session, part, islice(batches, len(own)), done)
        done.seconds = time.perf_counter() - started
    done.decode_seconds = sum(decode_seconds)
    return done


def _embed_part(session: Session[FreezeRecipe], part: Part, batches: Iterator[Batch[Wanted]], done: Embedded) -> None:
    from cnn_tl.features.embedding import embedder, stream

    arguments = (session.network, session.device, part.way.precision)
    options: dict[str, Any] = {"compiled": part.way.compiled, "batch_size": part.batch_size}
    with part.space.writer() as writer, embedder(*arguments, **options) as frozen:
        for batch, features_ND in stream(frozen, batches):
            for wanted, row in zip(batch.items, features_ND, strict=True):
                if not writer.add(part.key(wanted), row) or part.in_memory:
                    part.spare[part.key(wanted)] = row.copy()
            for wanted, error in batch.failures:
                done.broken.setdefault(wanted.image, error)
            done.rows += len(batch.items)
            session.observer.advance(len(batch.items) + len(batch.failures))
        done.forward_seconds += frozen.seconds


def _pixels(session: Session[FreezeRecipe], wanted: Wanted) -> Pixels:
    if wanted.view == PLAIN:
        return session.evaluation_pixels(wanted.image)
    return session.augmented_pixels(wanted.image, view_seed(wanted.image.sha256, wanted.view, session.recipe.seed))
