"""What is read from one image file, as plain data that another process can be sent.

A thread and a process call the same `run`, so the pixels, the errors and the warnings are the same from both.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.blank_images import kind_of_image, kind_of_pixels
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.manifest import ImageRecord, verify_file
from cnn_tl.data.views import image_source, transforms
from cnn_tl.data.views.augment import Augmentation, augment

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Decoded:
    """The pixels that a job has read.

    Attributes:
        pixels: uint8 of any shape.
        blank: why the image shows nothing, a key of `blank_images.WARNINGS`; None: it shows something, or nobody asked.
        seconds: CPU time, if it was measured.
    """

    pixels: Pixels
    blank: str | None = None
    seconds: float = 0.0


class Job(Protocol):
    """One image to read."""

    @property
    def expected_bytes(self) -> int:
        """How many bytes of pixels there will be, about; more than this only makes the way back slower."""
        ...

    def run(self) -> Decoded:
        """Read the image.

        Raises:
            BadImageError: it cannot be read.
            DataError: the file is not the one that was scanned.
            ResourceError: the machine could not read it, even after several attempts.
        """
        ...


@dataclass(frozen=True)
class ImageFile:
    """A file.

    Attributes:
        scanned: what was found when the folder was scanned; None: the file may be any.
    """

    path: Path
    scanned: ImageRecord | None = None

    def checked(self) -> Path:
        """Return the path, after a cheap check that the file is the one that was scanned.

        Raises:
            DataError: it has changed or vanished since.
        """
        if self.scanned is not None:
            verify_file(self.path, self.scanned)
        return self.path


@dataclass(frozen=True)
class PlainPixels:
    """The pixels that `predict` uses, uint8 [H, W, 3]."""

    file: ImageFile
    spec: Preprocessing

    @property
    def expected_bytes(self) -> int:
        """The bytes of [H, W, 3]."""
        return 3 * self.spec.height * self.spec.width

    def run(self) -> Decoded:
        """Read the image; see `Job.run`."""
        path = self.file.checked()
        pixels = transforms.read_pixels(path, self.spec)
        return Decoded(pixels, kind_of_pixels(pixels, path))


@dataclass(frozen=True)
class SourceRow:
    """The source from which random views are cropped, as a row of the cache, uint8 [bytes]; see `image_source.pack`."""

    file: ImageFile
    spec: Preprocessing
    side: int

    @property
    def expected_bytes(self) -> int:
        """The bytes of the longest row."""
        return image_source.row_bytes(self.side)

    def run(self) -> Decoded:
        """Read the image; see `Job.run`."""
        path = self.file.checked()
        image = image_source.read_source(path, self.spec, self.side)
        return Decoded(image_source.pack(image, self.side), kind_of_image(image, path))


@dataclass(frozen=True)
class RandomView:
    """The random view of a file that `seed` draws, uint8 [H, W, 3]."""

    file: ImageFile
    spec: Preprocessing
    settings: Augmentation
    seed: int

    @property
    def expected_bytes(self) -> int:
        """The bytes of [H, W, 3]."""
        return 3 * self.spec.height * self.spec.width

    def run(self) -> Decoded:
        """Read the image; see `Job.run`."""
        path = self.file.checked()
        draft = transforms.draft_size(self.spec, self.settings.crop_scale_min**-0.5)
        image = read_image(path, self.spec, draft=draft)
        return Decoded(augment(image, self.spec, self.settings, self.seed), kind_of_image(image, path))
