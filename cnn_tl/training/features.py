"""The features that a run needs: what the cache has of them, what must be computed, and both as arrays for the head.

Training pictures pass the network in the fastest number format that the machine has; validation pictures in float32,
uncompiled, so that the accuracy reported is the one that predict gives, picture by picture.

Shapes: N pictures, V views of each, D features.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from cnn_tl.cache.space import Space
from cnn_tl.cache.store import FeatureCache
from cnn_tl.data.loader import Batch
from cnn_tl.data.manifest import Picture
from cnn_tl.errors import BadImageError, ResourceError
from cnn_tl.features.keys import PLAIN, row_key, space_facts, view_seed
from cnn_tl.features.speed import Way
from cnn_tl.training.session import Pixels, Session, in_groups

Features = NDArray[np.float32]

CHECKED_AT_ONCE = 1024
READ_AHEAD = 10
"""Batches that may be decoded before the first is used: what the readers do while torch is loaded."""

EXACT = Way("fp32")


@dataclass(frozen=True)
class Wanted:
    """One view of one picture."""

    picture: Picture
    view: int


@dataclass
class Part:
    """The features of the training part, or of the validation part.

    Attributes:
        space: where the cache keeps them.
        missing: what it has not, or not whole.
        spare: rows that were computed and that the cache would not keep, by key.
    """

    session: Session
    pictures: tuple[Picture, ...]
    views: int
    space: Space
    missing: list[Wanted]
    spare: dict[bytes, Features] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return V."""
        return self.views

    def __getitem__(self, view: int) -> Features:
        """Return one view of every picture, float32 [N, D].

        Raises:
            ResourceError: the cache has lost rows that it had a moment ago.
        """
        keys = [self.key(Wanted(picture, view)) for picture in self.pictures]
        features_ND, lacking = self.space.gather(keys)
        for index in lacking:
            if keys[index] not in self.spare:
                raise ResourceError("the feature cache was damaged or removed while it was in use; run again")
            features_ND[index] = self.spare[keys[index]]
        return features_ND

    def key(self, wanted: Wanted) -> bytes:
        """Return the row's key."""
        return row_key(wanted.picture.sha256, wanted.view, self.session.recipe.seed, self.session.augmentation)

    def without(self, broken: set[str]) -> Part:
        """Return the part without pictures that could not be read."""
        pictures = tuple(picture for picture in self.pictures if picture.path not in broken)
        return Part(self.session, pictures, self.views, self.space, [], self.spare)

    @property
    def wanted(self) -> int:
        """How many rows there are when all are there."""
        return self.views * len(self.pictures)


def part_of(
    session: Session, cache: FeatureCache, pictures: Sequence[Picture], views: int, way: Way, device: str
) -> Part:
    """Look up what the cache has; every row is read and checked, so what it has is whole."""
    facts = space_facts(session.card, precision=way.precision, device=device, compiled=way.compiled)
    space = cache.space(facts, shape=(session.card.num_features,))
    part = Part(session, tuple(pictures), views, space, [])
    rows = [Wanted(picture, view) for view in range(views) for picture in part.pictures]
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
        broken: the pictures that could not be read.
        decode_seconds: processor time of the readers, added up. forward_seconds: in the network.
        seconds: from the first batch to the last, without loading torch.
    """

    rows: int = 0
    broken: dict[Picture, BadImageError] = field(default_factory=dict)
    decode_seconds: float = 0.0
    forward_seconds: float = 0.0
    seconds: float = 0.0

    def facts(self, workers: int) -> dict[str, float]:
        """Return pictures a second: of the readers alone, of the network alone, and of both together."""
        if not self.rows:
            return {}
        return {
            "decode_images_per_second": round(self.rows * workers / max(self.decode_seconds, 1e-9), 1),
            "forward_images_per_second": round(self.rows / max(self.forward_seconds, 1e-9), 1),
            "images_per_second": round(self.rows / max(self.seconds, 1e-9), 1),
        }


def embed(session: Session, work: Sequence[tuple[Part, Way]], batch_size: int) -> Embedded:
    """Compute what the parts lack, one after the other, and hand it to the cache.

    The readers begin before torch is there, and are busy while it is loaded.

    Raises:
        DataError: a broken picture, and the recipe says `on_bad_image: fail`; or files that changed.
        Stopped: a signal came; what is done so far is kept.
    """
    done = Embedded()
    groups = [in_groups(part.missing, batch_size) for part, _ in work]
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
        started = time.perf_counter()
        for (part, way), own in zip(work, groups, strict=True):
            _embed_part(session, part, way, islice(batches, len(own)), batch_size, done)
        done.seconds = time.perf_counter() - started
    done.decode_seconds = sum(decode_seconds)
    return done


def _embed_part(
    session: Session, part: Part, way: Way, batches: Iterator[Batch[Wanted]], batch_size: int, done: Embedded
) -> None:
    from cnn_tl.features.embedding import embedder, stream

    arguments = (session.network, session.device, way.precision)
    with part.space.writer() as writer, embedder(*arguments, compiled=way.compiled, batch_size=batch_size) as frozen:
        for batch, features_ND in stream(frozen, batches):
            for wanted, row in zip(batch.items, features_ND, strict=True):
                if not writer.add(part.key(wanted), row):
                    part.spare[part.key(wanted)] = row.copy()
            for wanted, error in batch.failures:
                done.broken.setdefault(wanted.picture, error)
            done.rows += len(batch.items)
            session.observer.advance(len(batch.items) + len(batch.failures))
        done.forward_seconds += frozen.seconds


def _pixels(session: Session, wanted: Wanted) -> Pixels:
    if wanted.view == PLAIN:
        return session.evaluation_pixels(wanted.picture)
    return session.augmented_pixels(
        wanted.picture, view_seed(wanted.picture.sha256, wanted.view, session.recipe.seed)
    )

