"""What is examined: the images of a folder with their labels, features, thumbnails and headers.

Shapes: N images, D features, S the side of a thumbnail, M measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.text_encoding import native
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.manifest import ImageRecord, Split
from cnn_tl.doctor.headers import Header
from cnn_tl.doctor.measures import MEASURES, Measured

if TYPE_CHECKING:
    from PIL import Image

SIDE = 64
"""Of a thumbnail, in pixels."""

Features = NDArray[np.float32]
Thumbnails = NDArray[np.uint8]


@dataclass(frozen=True)
class Collection:
    """Images to examine, in the order of their manifest.

    Attributes:
        root: the data folder; the paths of the images are relative to it.
        features: of the backbone, as mode freeze computes them, [N, D]; not of unit length.
        thumbnails: whole images squeezed to squares, RGB, [N, S, S, 3].
        measures: light, colour, sharpness and border, [N, M]; the columns are `measures.MEASURES`.
        view_of: (images in memory) -> their features [M, D] and thumbnails [M, S, S, 3], for images made from others.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    features: Features
    thumbnails: Thumbnails
    headers: tuple[Header, ...]
    measures: Measured
    view_of: Callable[[Sequence[Image.Image]], tuple[Features, Thumbnails]]

    def __len__(self) -> int:
        """Return N."""
        return len(self.images)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The index of each image's class, [N]."""
        return np.array([image.label for image in self.images], np.int64)

    @cached_property
    def splits(self) -> list[Split]:
        """The split of each image."""
        return [image.split for image in self.images]

    @cached_property
    def files(self) -> list[str]:
        """The path of each image relative to `root`."""
        return [image.path for image in self.images]

    def measure(self, name: str) -> Measured:
        """Return one column of the measures, [N]."""
        return self.measures[:, MEASURES.index(name)]

    def open(self, index: int) -> Image.Image:
        """Return an image, decoded and rotated as its EXIF says, RGB.

        Raises:
            BadImageError, ResourceError: it cannot be read any more.
        """
        return read_image(self.root / native(self.images[index].path))
