"""Training pictures, each time a little different: a random crop, a mirror image, other light."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from cnn_tl.data.transforms import FILTERS
from cnn_tl.preprocessing import Preprocessing


@dataclass(frozen=True)
class Augmentation:
    """How far a training picture may stray.

    Attributes:
        crop_scale_min: the smallest share of the area that a random crop may keep (Szegedy et al. 2014, sec. 6).
        flip: mirror every second picture, left to right.
        color: brightness, contrast and saturation each vary by up to this share.
    """

    crop_scale_min: float
    flip: bool
    color: float


def augment(image: Image.Image, spec: Preprocessing, settings: Augmentation, seed: int) -> NDArray[np.uint8]:
    """Return uint8 pixels [H, W, 3] of a random view of an RGB image; the view is a function of `seed` alone."""
    draw = random.Random(seed)
    box = _crop(image.width, image.height, spec.width / spec.height, settings.crop_scale_min, draw)
    view = image.resize((spec.width, spec.height), FILTERS[spec.interpolation], box=box)
    if settings.flip and draw.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if settings.color > 0:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            view = enhancer(view).enhance(draw.uniform(1 - settings.color, 1 + settings.color))
    return np.asarray(view)


def _crop(
    width: int, height: int, proportion: float, scale_min: float, draw: random.Random
) -> tuple[float, float, float, float]:
    """Draw a box of `scale_min`..1 of the area whose proportions are the target's, give or take a third."""
    area = width * height * draw.uniform(scale_min, 1)
    ratio = proportion * math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
    crop_width = min(width, math.sqrt(area * ratio))
    crop_height = min(height, math.sqrt(area / ratio))
    left = draw.uniform(0, width - crop_width)
    top = draw.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height
