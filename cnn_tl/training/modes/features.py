"""The features that a run needs: which are cached, which must be computed, and all of them as arrays for the head.

Training images pass the network in the fastest precision that the machine has; validation images in float32,
uncompiled, so that the reported accuracy is the one that predict gives, image by image.

An image is identified by its content: copies share one row, which is computed once.

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
from cnn_tl.core.errors import DataError
from cnn_tl.core.formatting import counted
from cnn_tl.data.loader import Batch, in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.cache_keys import PLAIN, row_key, space_facts, view_seed
from cnn_tl.features.speed import BATCH_SIZE, Speeds, Way
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset, Pixels
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.modes.embedding_stats import Embedded

Features = NDArray[np.float32]

CHECKED_AT_ONCE = 1024
READ_AHEAD = 10
"""Batches that may be decoded before the first is used: the workers' task while torch is loaded."""

EXACT = Way("fp32")


class OtherDevice(Exception):  # noqa: N818 - never leaves mode freeze
    """The device is not the one that was measured; features would be kept under the wrong name."""


@dataclass(frozen=True)
class Wanted:
    """One view of one image."""

    image: ImageRecord
    view: int


@dataclass
class SplitFeatures:
    """The features of the training or the validation split, as the views that a head is fitted on.

    Attributes:
        way: how they are computed. speeds: of the device that computes them.
        space: where the cache keeps them.
        missing: rows that the cache lacks or holds damaged; one for each content.
        spare: rows that were computed and that the cache did not take, by key.
        batch_size: images that pass the network at once.
        in_memory: hold what is computed in `spare`, also where the cache keeps it.
    """

    dataset: Dataset[FreezeRecipe]
    network: LazyNetwork
    images: tuple[ImageRecord, ...]
    views: int
    way: Way
    speeds: Speeds
    space: Space
    missing: list[Wanted] = field(default_factory=list)
    spare: dict[bytes, Features] = field(default_factory=dict)
    batch_size: int = BATCH_SIZE
    in_memory: bool = False

    @property
    def run(self) -> Run[FreezeRecipe]:
        """The run that needs them."""
        return self.dataset.run

    def __len__(self) -> int:
        """Return V."""
        return self.views

    def __getitem__(self, view: int) -> Features:
        """Return one view of every image, float32 [N, D]; rows that the cache has lost since are computed again.

        Raises:
            DataError: an image needed for that has changed or vanished.
            OtherDevice: the device is not the one that computed the remaining features.
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
        self.run.observer.note(f"the cache has lost {features} since the run began; computed again")
        with self.run.observer.task("features", len(lost)):
            done = embed(self.dataset, self.network, [replace(self, missing=lost, in_memory=True)], self.batch_size)
        if done.broken:
            raise DataError(str(next(iter(done.broken.values()))))

    def key(self, wanted: Wanted) -> bytes:
        """Return the row's key."""
        return row_key(wanted.image.sha256, wanted.view, self.run.recipe.seed, self.run.augmentation)

    def without(self, broken: set[str]) -> SplitFeatures:
        """Return the same without images that could not be read."""
        images = tuple(image for image in self.images if image.path not in broken)
        return replace(self, images=images, missing=[])

    def leave_to(self, other: SplitFeatures) -> None:
        """Remove from `missing` what `other`, which is computed first, computes anyway."""
        if self.space is other.space:
            theirs = {other.key(wanted) for wanted in other.missing}
            self.missing = [wanted for wanted in self.missing if self.key(wanted) not in theirs]
            self.spare = other.spare

    @property
    def wanted(self) -> int:
        """How many rows there are once all are computed."""
        return self.views * len({image.sha256 for image in self.images})


def find_features(
    dataset: Dataset[FreezeRecipe],
    network: LazyNetwork,
    cache: FeatureCache,
    images: Sequence[ImageRecord],
    views: int,
    way: Way,
    speeds: Speeds,
) -> SplitFeatures:
    """Look up what the cache has; every row is read and verified, so what it has is whole."""
    info = network.info
    facts = space_facts(
        info, precision=way.precision, device=speeds.device, hardware=speeds.hardware, compiled=way.compiled
    )
    space = cache.space(facts, shape=(info.num_features,))
    found = SplitFeatures(dataset, network, tuple(images), views, way, speeds, space)
    distinct = {image.sha256: image for image in found.images}.values()
    rows = [Wanted(image, view) for view in range(views) for image in distinct]
    for start in range(0, len(rows), CHECKED_AT_ONCE):
        chunk = rows[start : start + CHECKED_AT_ONCE]
        _, lacking = space.gather([found.key(wanted) for wanted in chunk])
        found.missing += [chunk[index] for index in lacking]
    return found


def share_of(features: SplitFeatures) -> SplitFeatures:
    """Return the features with this process's share of what must be computed.

    Only the first process needs the features, so only what it lacks is computed; what the cache of another process
    has already is sent to it as it is.
    """
    world = features.run.world
    if world.is_alone:
        return features
    needed = set(world.first(lambda: [features.key(wanted) for wanted in features.missing]))
    mine = [w for w in features.missing if world.owns(w.image.sha256) and features.key(w) in needed]
    return replace(features, missing=mine)


def bring_together(features: SplitFeatures) -> None:
    """Give the first process of a run the rows that others have computed and that its own cache lacks.

    On one machine, or on a disk that all machines share, the cache has them all.
    """
    world = features.run.world
    if world.is_alone:
        return
    features.space.refresh()
    keys = [features.key(wanted) for wanted in features.missing]
    lacking = world.first(lambda: [key for key in keys if key not in features.space and key not in features.spare])
    for chunk in in_groups(lacking, CHECKED_AT_ONCE):
        rows = {key: features.spare[key] if key in features.spare else features.space.read(key) for key in chunk}
        for others in world.gather({key: row for key, row in rows.items() if row is not None}):
            if world.is_first:
                features.spare |= others


def embed(
    dataset: Dataset[FreezeRecipe], network: LazyNetwork, splits: Sequence[SplitFeatures], batch_size: int
) -> Embedded:
    """Compute what the splits lack, one after the other, and hand it to the cache.

    The workers start before torch is loaded, and decode while it is.

    Raises:
        DataError: a broken image, and the recipe says `on_bad_image: fail`; or files that changed.
        OtherDevice: the device is not the one that was measured.
        Stopped: a signal came; what is done so far is kept.
    """
    done = Embedded()
    for split in splits:
        split.batch_size = batch_size
    groups = [in_groups(split.missing, batch_size) for split in splits]
    if not any(groups):
        return done
    decode_seconds: list[float] = []

    def pixels_of(wanted: Wanted) -> Pixels:
        started = time.thread_time()
        try:
            return _pixels(dataset, wanted)
        finally:
            decode_seconds.append(time.thread_time() - started)

    with dataset.reading(list(chain.from_iterable(groups)), pixels_of, ahead=READ_AHEAD) as batches:
        network.build()
        if not all(split.speeds.is_of(network.device) for split in splits):
            raise OtherDevice
        started = time.perf_counter()
        for split, own in zip(splits, groups, strict=True):
            _embed_split(network, split, islice(batches, len(own)), done)
        done.seconds = time.perf_counter() - started
    done.decode_seconds = sum(decode_seconds)
    return done


def _embed_split(network: LazyNetwork, split: SplitFeatures, batches: Iterator[Batch[Wanted]], done: Embedded) -> None:
    from cnn_tl.features.embedding import embedder, stream

    arguments = (network.build(), network.device, split.way.precision)
    options: dict[str, Any] = {"compiled": split.way.compiled, "batch_size": split.batch_size}
    with split.space.writer() as writer, embedder(*arguments, **options) as frozen:
        for batch, features_ND in stream(frozen, batches):
            for wanted, row in zip(batch.items, features_ND, strict=True):
                if not writer.add(split.key(wanted), row) or split.in_memory:
                    split.spare[split.key(wanted)] = row.copy()
            for wanted, error in batch.failures:
                done.broken.setdefault(wanted.image, error)
            done.rows += len(batch.items)
            split.run.observer.advance(len(batch.items) + len(batch.failures))
        done.forward_seconds += frozen.seconds


def _pixels(dataset: Dataset[FreezeRecipe], wanted: Wanted) -> Pixels:
    if wanted.view == PLAIN:
        return dataset.evaluation_pixels(wanted.image)
    seed = view_seed(wanted.image.sha256, wanted.view, dataset.run.recipe.seed)
    return dataset.augmented_pixels(wanted.image, seed)
