"""Images that a Python caller has in memory: PIL images, numpy arrays and the bytes of a file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.errors import UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.blank_images import kind_of_pixels
from cnn_tl.data.decoding.image import from_pillow
from cnn_tl.data.reading.jobs import Decoded
from cnn_tl.data.views import transforms
from cnn_tl.inference.inputs import find

One: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

_WANTED = "give a path, a PIL image, or a numpy array of uint8, [H, W, 3] in RGB"
_DECODING = threading.Lock()
"""Pillow decodes an open image when it is first used, and two threads must not do that at once."""


@dataclass(frozen=True, eq=False)
class ImageInMemory:
    """An image in memory.

    Attributes:
        name: the `file` of its answer.
        image: the caller's image, which is not modified, or the bytes of a file.
    """

    name: str
    image: Image.Image | bytes

    def __str__(self) -> str:
        """Return the name, as `str` of a path does."""
        return self.name

    def job(self, spec: Preprocessing) -> PixelsInMemory:
        """Return the job that reads the preprocessed image, for a thread."""
        return PixelsInMemory(self.image, spec)


@dataclass(frozen=True, eq=False)
class PixelsInMemory:
    """The pixels of an image in memory that `predict` uses, uint8 [H, W, 3]."""

    image: Image.Image | bytes
    spec: Preprocessing

    @property
    def expected_bytes(self) -> int:
        """The bytes of [H, W, 3]."""
        return 3 * self.spec.height * self.spec.width

    def run(self) -> Decoded:
        """Return the preprocessed image.

        Raises:
            BadImageError: it cannot be decoded, or exceeds the limits of the preprocessing.
        """
        if isinstance(self.image, bytes):
            pixels = transforms.read_pixels(self.image, self.spec)
        else:
            with _DECODING:
                whole = from_pillow(self.image, self.spec)
            pixels = transforms.resize_and_crop(whole, self.spec)
        return Decoded(pixels, kind_of_pixels(pixels, None))


Images: TypeAlias = One | ImageInMemory | Iterable[One | ImageInMemory]


def find_images(images: Images, *, recursive: bool = True) -> Iterator[Path | ImageInMemory]:
    """Yield files and images in memory in the given order; `inputs.find` says how paths are searched.

    Raises:
        DataError: as `find`.
        UsageError: as `find`; or one of them is not an image.
    """
    for number, one in enumerate(_separate(images)):
        if isinstance(one, str | os.PathLike):
            yield from find(one if isinstance(one, str) else Path(one), recursive=recursive)
        elif isinstance(one, ImageInMemory):
            yield one
        elif isinstance(one, bytes):
            yield ImageInMemory(f"image {number}", one)
        elif isinstance(one, Image.Image):
            yield ImageInMemory(str(getattr(one, "filename", "") or f"image {number}"), one)
        elif isinstance(one, np.ndarray):
            yield ImageInMemory(f"image {number}", _from_array(one))
        else:
            raise UsageError(f"{_kind_of(one)} is not an image: {_WANTED}")


def _separate(images: Any) -> Iterable[Any]:
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else [images]
    if isinstance(images, str | os.PathLike | bytes | Image.Image) or not isinstance(images, Iterable):
        return [images]
    return [images] if hasattr(images, "__array__") else images  # a tensor is not a list of images


def _from_array(array: NDArray[Any]) -> Image.Image:
    shape = " x ".join(map(str, array.shape))
    if array.dtype != np.uint8:
        advice = ": where 1.0 is white, (255 * array).round().astype('uint8')" if array.dtype.kind == "f" else ""
        raise UsageError(
            f"an array of {array.dtype} does not say which value is white; give uint8 from 0 to 255{advice}"
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        raise UsageError(
            f"an array of {shape} has its channels first; give array.transpose(1, 2, 0), which is [H, W, 3] in RGB"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or not array.size:
        raise UsageError(f"an array of {shape} is not an image; {_WANTED}")
    return Image.fromarray(array)


def _kind_of(value: object) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
