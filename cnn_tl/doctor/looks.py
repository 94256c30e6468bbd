"""How images look: a thumbnail and some measures of each, read once from its file and cached.

Shapes as in collection.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.cache.space import Space
from cnn_tl.core.errors import BadImageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.loader import in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.reading.jobs import Decoded, ImageFile
from cnn_tl.data.views.transforms import draft_size
from cnn_tl.doctor.collection import SIDE
from cnn_tl.doctor.measures import MEASURES, VERSION, Measured, measure
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run, open_cache
from cnn_tl.training.dataset import Dataset

AT_ONCE = 256
"""Images whose thumbnails are read, or whose features are computed, together."""

_THUMBNAIL_BYTES = 3 * SIDE * SIDE
_ROW_BYTES = _THUMBNAIL_BYTES + 4 * len(MEASURES)


@dataclass(frozen=True)
class Look:
    """The thumbnail [S, S, 3] and the measures [M] of an image."""

    thumbnail: NDArray[np.uint8]
    measures: Measured

    def packed(self) -> NDArray[np.uint8]:
        """Return both as a row of the cache."""
        return np.concatenate([self.thumbnail.reshape(-1), self.measures.astype("<f4").view(np.uint8)])

    @staticmethod
    def unpacked(row: NDArray[np.uint8]) -> Look:
        """Return what `packed` made a row of."""
        measures = row[_THUMBNAIL_BYTES:].copy().view("<f4").astype(np.float32)
        return Look(row[:_THUMBNAIL_BYTES].reshape(SIDE, SIDE, 3), measures)


@dataclass(frozen=True)
class _LookJob:
    """Reads the look of an image from its file."""

    file: ImageFile
    spec: Preprocessing

    @property
    def expected_bytes(self) -> int:
        """The bytes of a row."""
        return _ROW_BYTES

    def run(self) -> Decoded:
        """Read the image; see `Job.run`."""
        image = read_image(self.file.checked(), self.spec, draft=draft_size(self.spec))
        return Decoded(look_at(image, self.spec).packed())


def look_at(image: Image.Image, spec: Preprocessing) -> Look:
    """Return the thumbnail and the measures of an RGB image."""
    small = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return Look(np.asarray(small), measure(image, min(spec.resized)))


def looks_of(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe]
) -> tuple[dict[str, Look], list[tuple[ImageRecord, BadImageError]]]:
    """Return the looks of all images by SHA-256, and the images that could not be read."""
    spec = dataset.preprocessing
    facts = {"looks": VERSION, "side": SIDE, "resized": list(spec.resized), "pillow": version("pillow")}
    space = open_cache(run, holds="image").space(facts, shape=(_ROW_BYTES,), dtype="uint8")
    images = list({image.sha256: image for image in dataset.manifest.images}.values())
    looks: dict[str, Look] = {}
    broken: dict[str, BadImageError] = {}
    missing = _cached_looks(space, images, looks)

    def job_of(image: ImageRecord) -> _LookJob:
        return _LookJob(dataset.file_of(image), spec)

    with run.observer.task("looking at images", len(images)), space.writer() as writer:
        run.observer.advance(len(images) - len(missing))
        with dataset.decoding(in_groups(missing, AT_ONCE), job_of, lambda image: image) as batches:
            for batch in batches:
                for image, row in zip(batch.items, batch.rows, strict=True):
                    looks[image.sha256] = Look.unpacked(row)
                    writer.add(bytes.fromhex(image.sha256), row)
                broken |= {image.sha256: error for image, error in batch.failures}
                run.observer.advance(len(batch.items) + len(batch.failures))
    return looks, [(one, broken[one.sha256]) for one in dataset.manifest.images if one.sha256 in broken]


def _cached_looks(space: Space, images: Sequence[ImageRecord], looks: dict[str, Look]) -> list[ImageRecord]:
    """Put the cached looks into `looks` and return the images without one."""
    missing: list[ImageRecord] = []
    for group in in_groups(images, AT_ONCE):
        rows, lacking = space.gather([bytes.fromhex(image.sha256) for image in group])
        absent = set(lacking)
        missing += [group[index] for index in lacking]
        looks |= {image.sha256: Look.unpacked(rows[index]) for index, image in enumerate(group) if index not in absent}
    return missing
