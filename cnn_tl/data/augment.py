"""Training pictures, each time a little different: a random crop, a mirror image, a policy, other light, a hole."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from cnn_tl.data import policies
from cnn_tl.data.transforms import FILTERS, mean_colour
from cnn_tl.preprocessing import Preprocessing


@dataclass(frozen=True)
class Augmentation:
    """How far a training picture may stray.

    Attributes:
        crop_scale_min: the smallest share of the area that a random crop may keep (Szegedy et al. 2014, sec. 6).
        flip: mirror every second picture, left to right.
        color: brightness, contrast and saturation each vary by up to this share.
        policy: one of `policies.POLICIES`, after the crop and the mirror image.
        magnitude, ops: how strong and how many the operations of the policy are, where it has such settings.
        erasing: the probability that a rectangle is painted over.

    What is at its default does not enter the key of a kept view (`features/keys.py`): a new setting must have a default
    that changes no pixel.
    """

    crop_scale_min: float
    flip: bool
    color: float
    policy: str = "none"
    magnitude: int | None = None
    ops: int | None = None
    erasing: float = 0.0


def augment(image: Image.Image, spec: Preprocessing, settings: Augmentation, seed: int) -> NDArray[np.uint8]:
    """Return uint8 pixels [H, W, 3] of a random view of an RGB image; the view is a function of `seed` alone."""
    draw = random.Random(seed)
    box = _crop(image.width, image.height, spec.width / spec.height, settings.crop_scale_min, draw)
    view = image.resize((spec.width, spec.height), FILTERS[spec.interpolation], box=box)
    if settings.flip and draw.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    operations = policies.POLICIES[settings.policy](draw, view.size, settings.magnitude, settings.ops)
    view = policies.perform(view, operations, mean_colour(spec))
    if settings.color > 0:
        for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            view = enhancer(view).enhance(draw.uniform(1 - settings.color, 1 + settings.color))
    if settings.erasing > 0 and draw.random() < settings.erasing:
        hole = _hole(view.width, view.height, draw)
        if hole is not None:
            view.paste(mean_colour(spec), hole)
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


def _hole(width: int, height: int, draw: random.Random) -> tuple[int, int, int, int] | None:
    """Draw the box that random erasing paints over (Zhong et al. 2020, alg. 1), as left, top, right, bottom in pixels.

    It takes 2 % to a third of the area, its sides at most in the proportion 3 : 10. None: none of ten that were drawn
    fits, as happens in a long strip.
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
