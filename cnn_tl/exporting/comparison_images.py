"""The images that an export is compared on: the run's validation images, or random ones where these are gone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core import files
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import BadImageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.loader import Pixels
from cnn_tl.data.manifest import ImageRecord, Manifest
from cnn_tl.data.reading.ahead import decoded_batches
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels
from cnn_tl.data.views import transforms
from cnn_tl.networks.bundle import run_of

MOST_IMAGES = 1000
MOST_WHOLE = 66
RANDOM_IMAGES = 64
RANDOM_SIZES = ((97, 131), (480, 360), (224, 224), (60, 200))
"""Height and width of the random whole images."""

BLOCK = 66
"""Images that are read together: whole batches of each size but 7."""


def manifest_of(bundle: Path) -> Manifest | None:
    """Return the manifest of the run that a bundle belongs to; None for a bundle alone.

    Raises:
        ArtefactError: it is damaged.
    """
    run = run_of(bundle)
    path = run / "manifest.json" if run else None
    return Manifest.from_json(files.read_json(path)) if path and path.is_file() else None


def comparison_records(manifest: Manifest) -> list[ImageRecord]:
    """Draw at most 1,000 validation images, the same ones each time."""
    images = manifest.of("val")
    return random.Random(0).sample(images, min(len(images), MOST_IMAGES))


def validation_images(bundle: Path) -> tuple[list[Path], int]:
    """Return the files to compare on, and how many validation images the run has; none for a bundle alone.

    Raises:
        ArtefactError: the run's manifest is damaged.
    """
    manifest = manifest_of(bundle)
    if manifest is None:
        return [], 0
    return [manifest.file(image) for image in comparison_records(manifest)], len(manifest.of("val"))


def validation_pixels(images: list[Path], spec: Preprocessing) -> Iterator[Pixels]:
    """Yield blocks of preprocessed images, uint8 [N, H, W, 3], without those that cannot be read."""

    def job_of(path: Path) -> Job:
        return PlainPixels(ImageFile(path), spec)

    workers = default_workers()
    for batch in decoded_batches(images, job_of, batch_size=BLOCK, workers=workers, images=len(images)):
        if batch.items:
            yield batch.pixels


def random_pixels(spec: Preprocessing) -> Iterator[Pixels]:
    """Yield blocks of random images in the size of the input, the same ones each time."""
    generator = np.random.default_rng(seed_of("parity"))
    for start in range(0, RANDOM_IMAGES, BLOCK):
        count = min(BLOCK, RANDOM_IMAGES - start)
        yield generator.integers(0, 256, (count, spec.height, spec.width, 3), np.uint8)


def whole_images(paths: Sequence[Path], spec: Preprocessing) -> list[NDArray[np.uint8]]:
    """Return the first images, decoded but not resized."""
    images = []
    for path in paths[:MOST_WHOLE]:
        try:
            images.append(np.asarray(read_image(path, spec, draft=transforms.draft_size(spec))))
        except BadImageError:  # gone or changed since training; the others suffice
            continue
    return images


def random_whole_images() -> list[NDArray[np.uint8]]:
    """Return random images in several sizes, the same ones each time."""
    generator = np.random.default_rng(seed_of("parity", "whole"))
    return [generator.integers(0, 256, (height, width, 3), np.uint8) for height, width in RANDOM_SIZES]
