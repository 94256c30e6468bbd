"""Shift, scale, rotate, blur or relight an image before its usual preprocessing.

The changes apply to the image as it was read, so that the network sees real detail wherever there is some; beyond the
border the image is mirrored. Strengths are relative to what the network sees: a shift of 10% is a tenth of its view, a
blur of 1 px is one pixel of its input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.reading.jobs import Decoded
from cnn_tl.data.views import transforms

_FINEST = 4
"""Pixels of an image per pixel of the input, along one axis: twice what scaling by 2 can show."""


@dataclass(frozen=True)
class View:
    """The part of an image that the network sees.

    Attributes:
        width, height: in pixels of the image.
        pixel_width, pixel_height: the size of one pixel of the input, in pixels of the image.
    """

    width: float
    height: float
    pixel_width: float
    pixel_height: float


@dataclass(frozen=True)
class Perturbation:
    """One way to change an image, at several strengths.

    Attributes:
        levels: the strengths. identity: the strength that changes nothing, which is not among them.
        unit: a format string that writes a strength.
        views: returns the changed images for a strength, one for each direction.
    """

    levels: tuple[float, ...]
    identity: float
    unit: str
    views: Callable[[Image.Image, View, float], Sequence[Image.Image]]


def reduced(image: Image.Image, spec: Preprocessing) -> Image.Image:
    """Return the image with no more pixels than its changed forms can show, as a huge one would fill the memory."""
    if spec.crop_mode == "center":
        image = transforms.trim_strip(image)
    view = view_of(image, spec)
    factors = max(1, int(view.pixel_width / _FINEST)), max(1, int(view.pixel_height / _FINEST))
    return image if factors == (1, 1) else image.reduce(factors)


def view_of(image: Image.Image, spec: Preprocessing) -> View:
    """Return the view that `transforms.resize_and_crop` gives the network of an image."""
    height, width = transforms.resized(image, spec)
    across, down = image.width / width, image.height / height
    return View(across * spec.width, down * spec.height, across, down)


def shifted(image: Image.Image, view: View, share: float) -> Sequence[Image.Image]:
    """Move the image right, left, down and up by a share of the view."""
    dx, dy = round(share / 100 * view.width), round(share / 100 * view.height)
    return [_window(image, -x, -y, *image.size) for x, y in ((dx, 0), (-dx, 0), (0, dy), (0, -dy))]


def scaled(image: Image.Image, view: View, factor: float) -> Sequence[Image.Image]:
    """Enlarge the image `factor` times about its centre."""
    width, height = max(1, round(image.width / factor)), max(1, round(image.height / factor))
    return [_window(image, (image.width - width) // 2, (image.height - height) // 2, width, height)]


def rotated(image: Image.Image, view: View, degrees: float) -> Sequence[Image.Image]:
    """Rotate the image about its centre, both ways."""
    radius = math.hypot(view.width, view.height) / 2
    room_x, room_y = (max(0, math.ceil(radius - side / 2)) for side in image.size)
    large = _window(image, -room_x, -room_y, image.width + 2 * room_x, image.height + 2 * room_y)
    angles = (degrees, -degrees) if degrees % 180 else (degrees,)
    rotations = (large.rotate(angle, Image.Resampling.BICUBIC) for angle in angles)
    return [one.crop((room_x, room_y, room_x + image.width, room_y + image.height)) for one in rotations]


def brightened(image: Image.Image, view: View, factor: float) -> Sequence[Image.Image]:
    """Multiply all sRGB values by a factor."""
    return [ImageEnhance.Brightness(image).enhance(factor)]


def blurred(image: Image.Image, view: View, sigma: float) -> Sequence[Image.Image]:
    """Blur with a Gaussian; `sigma` is in pixels of the network's input."""
    radius = sigma * view.pixel_width, sigma * view.pixel_height
    return [image.filter(ImageFilter.GaussianBlur(radius))]


PERTURBATIONS = {
    "shift": Perturbation((0.5, 2, 5, 10, 20), 0, "{:g}%", shifted),
    "scale": Perturbation((0.5, 0.7, 0.85, 1.2, 1.5, 2), 1, "× {:g}", scaled),
    "rotation": Perturbation((5, 15, 30, 45, 90, 180), 0, "{:g}°", rotated),
    "blur": Perturbation((0.5, 1, 2, 4), 0, "{:g} px", blurred),
    "brightness": Perturbation((0.25, 0.5, 0.75, 1.5, 2), 1, "× {:g}", brightened),
}


@dataclass(frozen=True)
class ChangedForms:
    """The job that reads an image in all forms, uint8 [V, H, W, 3], preprocessed as for predict, the unchanged first.

    Attributes:
        count: V.
    """

    path: Path
    spec: Preprocessing
    count: int

    @property
    def expected_bytes(self) -> int:
        """The bytes of [V, H, W, 3]."""
        return 3 * self.count * self.spec.height * self.spec.width

    def run(self) -> Decoded:
        """Read and change the image; see `Job.run`."""
        image = read_image(self.path, self.spec, draft=transforms.draft_size(self.spec))
        forms = [transforms.resize_and_crop(image, self.spec)]
        image = reduced(image, self.spec)
        view = view_of(image, self.spec)
        for change in PERTURBATIONS.values():
            for level in change.levels:
                forms += [transforms.resize_and_crop(one, self.spec) for one in change.views(image, view, level)]
        return Decoded(np.stack(forms))


def _window(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """Crop a window; beyond its borders the image is mirrored again and again."""
    inside = left >= 0 and top >= 0 and left + width <= image.width and top + height <= image.height
    if inside:
        return image.crop((left, top, left + width, top + height))
    columns, rows = _mirrored(left, width, image.width), _mirrored(top, height, image.height)
    return Image.fromarray(np.asarray(image)[rows[:, None], columns])


def _mirrored(start: int, count: int, size: int) -> NDArray[np.int64]:
    """Return which of `size` pixels follow from `start` on, where a b c d is continued as d c b a at either end."""
    places = np.arange(start, start + count) % (2 * size)
    return np.where(places < size, places, 2 * size - 1 - places)
