"""The features of mode freeze: look them up in the cache, compute the missing ones, return them as arrays.

One engine computes those of training and of validation images, the one with which `predict` runs the saved model on
the same device: so the reported accuracy is that of the saved model.

The cache identifies an image by its content: copies of an image share one row, which is computed once.

Shapes: N images, V views of each, D features.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnn_tl.cache.space import Space
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.errors import DataError
from cnn_tl.core.formatting import counted
from cnn_tl.data.loader import Batch, in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.reading.jobs import Job
from cnn_tl.features.cache_keys import PLAIN, row_key, view_seed
from cnn_tl.features.stream import stream
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.modes.backend import Backend
from cnn_tl.training.modes.embedding_stats import EmbeddingStats

if TYPE_CHECKING:
    from cnn_tl.features.engine import Engine
    from cnn_tl.features.loading_engine import LoadingEngine
    from cnn_tl.features.onnx_engine import OnnxEngine

Features = NDArray[np.float32]

CHECKED_AT_ONCE = 1024
READ_AHEAD = 10
"""Batches that threads may decode in advance, while torch is being loaded."""


class DeviceChanged(Exception):  # noqa: N818 - never leaves mode freeze
    """The device is not the remembered one, so its features would be cached under the wrong key."""


@dataclass(frozen=True)
class ImageView:
    """One view of one image."""

    image: ImageRecord
    view: int


@dataclass
class SplitFeatures:
    """The features of one split: a sequence of V arrays [N, D], one for each view.

    Attributes:
        backend: what computes them.
        space: the part of the cache that stores them.
        missing: rows that the cache lacks or that are damaged; copies of an image count once.
        held: rows held in memory because the cache could not store them, by key.
        batch_size: images that the engine gets at once.
        hold_all: hold every computed row in memory, even if the cache stores it.
    """

    dataset: Dataset[FreezeRecipe]
    network: LazyNetwork
    images: tuple[ImageRecord, ...]
    views: int
    backend: Backend
    space: Space
    missing: list[ImageView] = field(default_factory=list)
    held: dict[bytes, Features] = field(default_factory=dict)
    batch_size: int = 1
    hold_all: bool = False

    @property
    def run(self) -> Run[FreezeRecipe]:
        """The run that needs them."""
        return self.dataset.run

    def __len__(self) -> int:
        """Return V."""
        return self.views

    def __getitem__(self, view: int) -> Features:
        """Return one view of every image, float32 [N, D]; rows that the cache has lost meanwhile are computed again.

        Raises:
            DataError: an image of a lost row has changed or vanished.
            DeviceChanged: the device is not the one that computed the other features.
            Stopped: a signal came.
        """
        keys = [self.key(ImageView(image, view)) for image in self.images]
        features_ND, lacking = self.space.gather(keys)
        lost = {keys[i]: ImageView(self.images[i], view) for i in lacking if keys[i] not in self.held}
        if lost:
            self._compute_again(list(lost.values()))
        for index in lacking:
            features_ND[index] = self.held[keys[index]]
        return features_ND

    def _compute_again(self, lost: list[ImageView]) -> None:
        features = counted(len(lost), "feature")
        self.run.observer.note(f"the cache has lost {features} since the run began; computed again")
        with self.run.observer.task("features", len(lost)):
            done = embed(self.dataset, self.network, [replace(self, missing=lost, hold_all=True)], self.batch_size)
        if done.broken:
            raise DataError(str(next(iter(done.broken.values()))))

    def key(self, wanted: ImageView) -> bytes:
        """Return the cache key of a row."""
        return row_key(wanted.image.sha256, wanted.view, self.run.recipe.seed, self.run.augmentation)

    def without(self, broken: set[str]) -> SplitFeatures:
        """Return these features without the images at the given paths; nothing is missing any more."""
        images = tuple(image for image in self.images if image.path not in broken)
        return replace(self, images=images, missing=[])

    def skip_rows_of(self, other: SplitFeatures) -> None:
        """Do not compute rows that `other`, which is computed first, also needs; share its rows."""
        if self.space is other.space:
            theirs = {other.key(wanted) for wanted in other.missing}
            self.missing = [wanted for wanted in self.missing if self.key(wanted) not in theirs]
            self.held = other.held

    @property
    def total(self) -> int:
        """Number of rows: one for each view of each distinct image."""
        return self.views * len({image.sha256 for image in self.images})


def find_features(
    dataset: Dataset[FreezeRecipe],
    network: LazyNetwork,
    cache: FeatureCache,
    images: Sequence[ImageRecord],
    views: int,
    backend: Backend,
) -> SplitFeatures:
    """Look up which features are cached; each row is read and verified, so a damaged one counts as missing."""
    space = cache.space(backend.facts(network.info), shape=(network.info.num_features,))
    found = SplitFeatures(dataset, network, tuple(images), views, backend, space)
    distinct = {image.sha256: image for image in found.images}.values()
    rows = [ImageView(image, view) for view in range(views) for image in distinct]
    for start in range(0, len(rows), CHECKED_AT_ONCE):
        chunk = rows[start : start + CHECKED_AT_ONCE]
        _, lacking = space.gather([found.key(wanted) for wanted in chunk])
        found.missing += [chunk[index] for index in lacking]
    return found


def own_share(features: SplitFeatures) -> SplitFeatures:
    """Return the features with only this process's share of the missing rows.

    Only the first process fits the head, so only rows missing there are computed. If another process has such a row in
    its own cache, `collect_rows` sends it.
    """
    world = features.run.world
    if world.is_alone:
        return features
    needed = set(world.first(lambda: [features.key(wanted) for wanted in features.missing]))
    mine = [w for w in features.missing if world.owns(w.image.sha256) and features.key(w) in needed]
    return replace(features, missing=mine)


def embed(
    dataset: Dataset[FreezeRecipe], network: LazyNetwork, splits: Sequence[SplitFeatures], batch_size: int
) -> EmbeddingStats:
    """Compute the missing rows of the splits, one split after the other, and write them to the cache.

    The workers start decoding while torch is being loaded, if it is needed.

    Raises:
        DataError: an image is broken and the recipe says `on_bad_image: fail`; or a file has changed.
        DeviceChanged: the device is not the remembered one.
        Stopped: a signal came; the rows computed so far are in the cache.
    """
    done = EmbeddingStats()
    for split in splits:
        split.batch_size = batch_size
    groups = [in_groups(split.missing, batch_size) for split in splits]
    if not any(groups):
        network.forget_engines()
        return done

    def job_of(wanted: ImageView) -> Job:
        return _job(dataset, wanted)

    with dataset.decoding(list(chain.from_iterable(groups)), job_of, attrgetter("image"), ahead=READ_AHEAD) as batches:
        if any(split.backend.engine == "torch" for split in splits):
            network.build()
        if not all(network.is_on(split.backend.device) for split in splits):
            raise DeviceChanged
        started = time.perf_counter()
        for split, own in zip(splits, groups, strict=True):
            _embed_split(network, split, islice(batches, len(own)), done)
        done.seconds = time.perf_counter() - started
    network.forget_engines()
    return done


def _embed_split(
    network: LazyNetwork, split: SplitFeatures, batches: Iterator[Batch[ImageView]], done: EmbeddingStats
) -> None:
    with split.space.writer() as writer, engine_of(network, split.backend) as frozen:
        before = frozen.seconds
        for batch, features_ND in stream(frozen, batches):
            for wanted, row in zip(batch.items, features_ND, strict=True):
                if not writer.add(split.key(wanted), row) or split.hold_all:
                    split.held[split.key(wanted)] = row.copy()
            for wanted, error in batch.failures:
                done.broken.setdefault(wanted.image, error)
            done.rows += len(batch.items)
            done.decode_seconds += batch.seconds
            split.run.observer.advance(len(batch.items) + len(batch.failures))
        done.forward_seconds += frozen.seconds - before


def engine_of(network: LazyNetwork, backend: Backend) -> AbstractContextManager[Engine | LoadingEngine | OnnxEngine]:
    """Return what computes features; the network has no classifier inside its block."""
    prepared = network.prepared
    if backend.graph is not None:
        return nullcontext(network.onnx_engine(backend.graph))
    if prepared is not None and prepared.precision == backend.precision:
        return nullcontext(prepared.engine)
    from cnn_tl.features.embedding import embedder

    return embedder(network.build(), network.device, backend.precision)


def _job(dataset: Dataset[FreezeRecipe], wanted: ImageView) -> Job:
    if wanted.view == PLAIN:
        return dataset.plain_job(wanted.image)
    return dataset.view_job(wanted.image, view_seed(wanted.image.sha256, wanted.view, dataset.run.recipe.seed))


def collect_rows(features: SplitFeatures) -> None:
    """Send the rows that the first process lacks to it from the processes that have them.

    If all processes share one cache (one machine, or a shared disk), there is nothing to send.
    """
    world = features.run.world
    if world.is_alone:
        return
    features.space.refresh()
    keys = [features.key(wanted) for wanted in features.missing]
    lacking = world.first(lambda: [key for key in keys if key not in features.space and key not in features.held])
    for chunk in in_groups(lacking, CHECKED_AT_ONCE):
        rows = {key: features.held[key] if key in features.held else features.space.read(key) for key in chunk}
        for others in world.gather({key: row for key, row in rows.items() if row is not None}):
            if world.is_first:
                features.held |= others
