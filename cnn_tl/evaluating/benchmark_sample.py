"""The images of a benchmark: a sample of a folder, however large it is, or crops of two photographs."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.files import sha256_file
from cnn_tl.core.text_encoding import portable
from cnn_tl.data.decoding.file_types import has_image_extension
from cnn_tl.data.folders.find_images import is_candidate
from cnn_tl.data.folders.layout import refuse_non_folder
from cnn_tl.data.manifest import ImageRecord, Manifest

CROPS, CROP_SIZE, CLASSES_OF_CROPS = 64, (500, 375), 4
"""How many crops are written, their width and height in pixels, and the number of their classes."""

MOST_FOLDERS, MOST_ENTRIES = 64, 2_000
"""How many folders, and how many entries of each, are looked at for a sample."""

MOST_UNNAMED = 100
"""Files that are opened in a folder without image extensions."""

LISTING_SECONDS = 1.5
"""How long a slow disk may take to list a folder and to read the sample; then what was found is used."""

FEWEST = 8
"""Images that are read even from a disk that is slower."""


@dataclass(frozen=True)
class Sample:
    """Images to measure on.

    Attributes:
        name: where they come from, in words.
        manifest: all of them as training images; their classes are the folders that they lie in, at least two.
    """

    name: str
    manifest: Manifest


@contextmanager
def sampled(data: Path | str | None, images: int) -> Iterator[Sample]:
    """Yield at most `images` images of a folder, at any depth; of crops of photographs if there is no folder.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if data is not None:
        refuse_non_folder(Path(data))
        yield Sample(str(data), sample_of(Path(data), images))
        return
    with tempfile.TemporaryDirectory(prefix="cnn-tl-benchmark-") as folder:
        write_crops(Path(folder))
        yield Sample("crops of two photographs, {} x {} px".format(*CROP_SIZE), sample_of(Path(folder), images))


def sample_of(root: Path, images: int) -> Manifest:
    """Return a manifest of at most `images` images, as many of each of the folders that are found first.

    Raises:
        DataError: there is no image.
    """
    ends = time.monotonic() + LISTING_SECONDS
    groups = list(islice(_folders_with_images(root, ends), MOST_FOLDERS))
    each_once = [file for row in zip_longest(*groups) for file in row if file is not None][:images]
    if not each_once:
        raise DataError(f"{printable(root)} has no images; name a folder with some, or none for photographs of our own")
    parents = sorted({file.parent for file in each_once})
    classes = max(2, len(parents))
    records = []
    for number, file in enumerate(each_once):
        label = parents.index(file.parent) if len(parents) > 1 else number % classes
        records.append(_record(root, file, label))
        if len(records) >= FEWEST and time.monotonic() > ends + LISTING_SECONDS:
            break
    return Manifest(root, tuple(f"class {number}" for number in range(classes)), tuple(records))


def _folders_with_images(root: Path, ends: float) -> Iterator[list[Path]]:
    """Yield the images that lie directly in each folder, without following links to folders."""
    pending = [root]
    while pending and time.monotonic() < ends:
        folder = pending.pop(0)
        try:
            with os.scandir(folder) as found:
                entries = list(islice((entry for entry in found if not entry.name.startswith(".")), MOST_ENTRIES))
        except OSError as error:
            raise DataError(f"{printable(folder)} cannot be read: {error.strerror}") from error
        entries.sort(key=lambda entry: entry.name)
        pending += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        files = [Path(entry.path) for entry in entries if entry.is_file()]
        named = [file for file in files if has_image_extension(file)]
        if images := named or [file for file in files[:MOST_UNNAMED] if is_candidate(file)]:
            yield images


def _record(root: Path, file: Path, label: int) -> ImageRecord:
    facts = file.stat()
    path = portable(file.relative_to(root).as_posix())
    return ImageRecord(path, label, "train", facts.st_size, facts.st_mtime_ns, sha256_file(file))


def write_crops(root: Path) -> None:
    """Write JPEG crops of scikit-learn's two photographs, as large as the images of an ordinary data set."""
    from PIL import Image

    photographs = [Image.open(file) for file in _photographs()]
    draw = np.random.default_rng(0)
    width, height = CROP_SIZE
    for number in range(CROPS):
        folder = root / f"class {number % CLASSES_OF_CROPS}"
        folder.mkdir(exist_ok=True)
        photograph = photographs[number % len(photographs)]
        left, top = (int(draw.integers(0, size)) for size in (photograph.width - width, photograph.height - height))
        photograph.crop((left, top, left + width, top + height)).save(folder / f"{number}.jpg", quality=90)


def _photographs() -> list[Path]:
    """Return the files of scikit-learn's photographs, without importing it, which takes a second or more."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None, "cnn-tl depends on scikit-learn"
    assert spec.submodule_search_locations is not None, "it is a package"
    return sorted(Path(spec.submodule_search_locations[0], "datasets", "images").glob("*.jpg"))
