"""Augmentation policies: which operations are applied to a training image, and how strong they are.

RandAugment (Cubuk et al. 2020, sec. 3) and TrivialAugment Wide (Müller and Hutter 2021, tab. 1), with the ranges of
torchvision's `RandAugment` and `TrivialAugmentWide`. Torchvision draws from torch's global generator, which all threads
would share; here every draw comes from the generator that is passed in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageEnhance, ImageOps

Colour = tuple[int, int, int]

STRONGEST = 30
"""Strengths are 0 to this, evenly spaced over the range of an operation."""


@dataclass(frozen=True)
class Range:
    """The range of an operation's magnitude: `weakest` at strength 0, `strongest` at strength 30.

    Attributes:
        signed: half of the magnitudes are negative.
    """

    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False

    def at(self, strength: int) -> float:
        """Return the absolute magnitude at a strength."""
        return self.weakest + (self.strongest - self.weakest) * strength / STRONGEST


@dataclass(frozen=True)
class Operation:
    """An operation with its magnitude as drawn: a name in `OPERATIONS`, and a number in that operation's unit."""

    name: str
    magnitude: float


@cache
def randaugment_ranges(width: int, height: int) -> Mapping[str, Range]:
    """Return the range of each operation of RandAugment for an image of this size in pixels."""
    far = 150 / 331  # the ranges were tuned on images of 331 px (AutoAugment, Cubuk et al. 2019)
    return _ranges(shear=0.3, across=far * width, down=far * height, degrees=30, enhance=0.9, bits=4)


@cache
def trivialaugment_ranges() -> Mapping[str, Range]:
    """Return the range of each operation of TrivialAugment Wide."""
    return _ranges(shear=0.99, across=32, down=32, degrees=135, enhance=0.99, bits=2)


def _ranges(
    *, shear: float, across: float, down: float, degrees: float, enhance: float, bits: float
) -> dict[str, Range]:
    return {
        "identity": Range(),
        "shear-x": Range(0, shear, signed=True),
        "shear-y": Range(0, shear, signed=True),
        "translate-x": Range(0, across, signed=True),
        "translate-y": Range(0, down, signed=True),
        "rotate": Range(0, degrees, signed=True),
        "brightness": Range(0, enhance, signed=True),
        "color": Range(0, enhance, signed=True),
        "contrast": Range(0, enhance, signed=True),
        "sharpness": Range(0, enhance, signed=True),
        "posterize": Range(8, bits),
        "solarize": Range(255, 0),
        "autocontrast": Range(),
        "equalize": Range(),
    }


MATRICES: dict[str, Callable[[float], tuple[float, ...]]] = {
    "shear-x": lambda slope: (1, slope, 0, 0, 1, 0),
    "shear-y": lambda slope: (1, 0, 0, slope, 1, 0),
    "translate-x": lambda pixels: (1, 0, -int(pixels), 0, 1, 0),
    "translate-y": lambda pixels: (1, 0, 0, 0, 1, -int(pixels)),
}
"""Name -> function of a magnitude; it returns a to f, with which a pixel (x, y) gets the value at
(a x + b y + c, d x + e y + f)."""


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Colour) -> Image.Image:
    """Give each pixel (x, y) the value at (a x + b y + c, d x + e y + f), or `fill` if that is outside."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill)


OPERATIONS: dict[str, Callable[[Image.Image, float, Colour], Image.Image]] = {
    "identity": lambda image, magnitude, fill: image,
    "shear-x": lambda image, slope, fill: _affine(image, MATRICES["shear-x"](slope), fill),
    "shear-y": lambda image, slope, fill: _affine(image, MATRICES["shear-y"](slope), fill),
    "translate-x": lambda image, pixels, fill: _affine(image, MATRICES["translate-x"](pixels), fill),
    "translate-y": lambda image, pixels, fill: _affine(image, MATRICES["translate-y"](pixels), fill),
    "rotate": lambda image, degrees, fill: image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill),
    "brightness": lambda image, more, fill: ImageEnhance.Brightness(image).enhance(1 + more),
    "color": lambda image, more, fill: ImageEnhance.Color(image).enhance(1 + more),
    "contrast": lambda image, more, fill: ImageEnhance.Contrast(image).enhance(1 + more),
    "sharpness": lambda image, more, fill: ImageEnhance.Sharpness(image).enhance(1 + more),
    "posterize": lambda image, bits, fill: ImageOps.posterize(image, round(bits)),
    "solarize": lambda image, threshold, fill: ImageOps.solarize(image, math.ceil(threshold)),
    "autocontrast": lambda image, magnitude, fill: ImageOps.autocontrast(image),
    "equalize": lambda image, magnitude, fill: ImageOps.equalize(image),
}
"""Name -> function of an RGB image, a magnitude and the colour for pixels from outside; the size stays the same.

Shears, translations and rotations interpolate bilinearly, as in torchvision's training recipes; nearest neighbours
would leave jagged edges that no photograph has.
"""


def none(draw: random.Random, size: tuple[int, int], magnitude: int, ops: int) -> list[Operation]:
    """Draw nothing."""
    return []


def randaugment(draw: random.Random, size: tuple[int, int], magnitude: int, ops: int) -> list[Operation]:
    """Draw `ops` operations uniformly, all with strength `magnitude`."""
    ranges = randaugment_ranges(*size)
    return [_drawn(draw, ranges, lambda: magnitude) for _ in range(ops)]


def trivialaugment(draw: random.Random, size: tuple[int, int], magnitude: int, ops: int) -> list[Operation]:
    """Draw one operation and a strength of 0 to 30, both uniformly; there are no settings."""
    return [_drawn(draw, trivialaugment_ranges(), lambda: _below(draw, STRONGEST + 1))]


POLICIES: dict[str, Callable[[random.Random, tuple[int, int], int, int], list[Operation]]] = {
    "none": none,
    "randaugment": randaugment,
    "trivialaugment": trivialaugment,
}
"""Name -> function of a generator, the (width, height) of the image in pixels, and the recipe's `magnitude` and `ops`,
which are 0 for a policy without such a setting; it returns the operations in order."""


def perform(image: Image.Image, operations: list[Operation], fill: Colour) -> Image.Image:
    """Apply operations to an RGB image in order; the size stays the same."""
    for operation in operations:
        image = OPERATIONS[operation.name](image, operation.magnitude, fill)
    return image


def _drawn(draw: random.Random, ranges: Mapping[str, Range], strength: Callable[[], int]) -> Operation:
    name = list(ranges)[_below(draw, len(ranges))]
    chosen = ranges[name]
    magnitude = chosen.at(strength())
    return Operation(name, -magnitude if chosen.signed and draw.random() < 0.5 else magnitude)


def _below(draw: random.Random, count: int) -> int:
    """Draw 0 to count - 1 with `random`, the only method of a generator that is the same in every version of Python."""
    return int(draw.random() * count)
