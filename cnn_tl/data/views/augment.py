"""Random views of training images: random crop, horizontal flip, a policy, colour jitter, random erasing."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views import policies
from cnn_tl.data.views.transforms import FILTERS, mean_colour

_LOG_NARROW, _LOG_WIDE = math.log(3 / 4), math.log(4 / 3)


@dataclass(frozen=True)
class Augmentation:
    """Settings of the random views.

    Attributes:
        crop_scale_min: the smallest share of the area that a random crop keeps (Szegedy et al. 2014, sec. 6); of an
            image that is much wider or higher than the network's input it keeps less, as much as fits.
        flip: flip half of the views horizontally.
        color: brightness, contrast and saturation each vary by up to this share.
        policy: one of `policies.POLICIES`, applied after the crop and the flip.
        magnitude, ops: the strength and number of the policy's operations, if it has such settings.
        erasing: the probability that a rectangle is erased.

    A setting at its default is not part of the key of a cached view (`features/cache_keys.py`), so the default of a new
    setting must not change any pixel.
    """

    crop_scale_min: float
    flip: bool
    color: float
    policy: str = "none"
    magnitude: int = 0
    ops: int = 0
    erasing: float = 0.0


@dataclass(frozen=True)
class Finish:
    """The last steps of a view, on pixels of its final size, so that they can also run on the GPU.

    Attributes:
        jitter: factors of brightness, contrast and saturation, in this order; None: unchanged.
        hole: left, top, right, bottom of the erased box, in pixels; None: there is none.
    """

    jitter: tuple[float, float, float] | None
    hole: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class View:
    """A random view as drawn: the crop's box, whether it is flipped, the policy's operations, and the last steps."""

    box: tuple[float, float, float, float]
    flipped: bool
    operations: list[policies.Operation]
    finish: Finish


def augment(image: Image.Image, spec: Preprocessing, settings: Augmentation, seed: int) -> NDArray[np.uint8]:
    """Return uint8 pixels [H, W, 3] of a random view of an RGB image; the view is a function of `seed` alone."""
    drawn = draw_view(image.width, image.height, spec, settings, seed)
    view = image.resize((spec.width, spec.height), FILTERS[spec.interpolation], box=drawn.box)
    if drawn.flipped:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    view = policies.perform(view, drawn.operations, mean_colour(spec))
    return np.asarray(finish(view, drawn.finish, spec))


def draw_view(width: int, height: int, spec: Preprocessing, settings: Augmentation, seed: int) -> View:
    """Draw a view of an image of this size in pixels, which affects only the box of the crop; nothing is read."""
    draw = random.Random(seed)
    box = _crop(width, height, spec.width / spec.height, settings.crop_scale_min, draw)
    flipped = settings.flip and draw.random() < 0.5
    size = spec.width, spec.height
    operations = policies.POLICIES[settings.policy](draw, size, settings.magnitude, settings.ops)
    jitter = None
    if settings.color > 0:
        brightness, contrast, saturation = (draw.uniform(1 - settings.color, 1 + settings.color) for _ in range(3))
        jitter = brightness, contrast, saturation
    erased = settings.erasing > 0 and draw.random() < settings.erasing
    return View(box, flipped, operations, Finish(jitter, _hole(*size, draw) if erased else None))


def finish(view: Image.Image, drawn: Finish, spec: Preprocessing) -> Image.Image:
    """Return a view with its colour jitter and its hole; the given image may be changed."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, factor in zip(enhancers, drawn.jitter or (), strict=False):
        view = enhancer(view).enhance(factor)
    if drawn.hole is not None:
        view.paste(mean_colour(spec), drawn.hole)
    return view


def _crop(
    width: int, height: int, proportion: float, scale_min: float, draw: random.Random
) -> tuple[float, float, float, float]:
    """Draw a box with `scale_min`..1 of the area, and the target's aspect ratio times 3/4 to 4/3.

    A box that is wider or higher than the image is clipped at the border: it then has less area.
    """
    area = width * height * draw.uniform(scale_min, 1)
    ratio = proportion * math.exp(draw.uniform(_LOG_NARROW, _LOG_WIDE))
    crop_width = min(width, math.sqrt(area * ratio))
    crop_height = min(height, math.sqrt(area / ratio))
    left = draw.uniform(0, width - crop_width)
    top = draw.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height


def _hole(width: int, height: int, draw: random.Random) -> tuple[int, int, int, int] | None:
    """Draw the box that random erasing fills (Zhong et al. 2020, alg. 1): left, top, right, bottom in pixels.

    It has 2% to a third of the area, and an aspect ratio of at most 10 : 3. None: none of ten drawn boxes fits, as
    happens in a long strip.
    """
    for _ in range(10):
        area = width * height * draw.uniform(0.02, 1 / 3)
        ratio = math.exp(draw.uniform(math.log(0.3), -math.log(0.3)))
        hole_width, hole_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < hole_width < width and 0 < hole_height < height:
            left = int(draw.random() * (width - hole_width + 1))
            top = int(draw.random() * (height - hole_height + 1))
            return left, top, left + hole_width, top + hole_height
    return None
