"""The preprocessing of images: which sizes are accepted, and how they are resized, cropped and normalised.

There is one specification, stored in every bundle and export. It is only data, so reading a bundle needs neither torch
nor Pillow; `data/views/transforms.py` applies it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from cnn_tl.core.errors import ArtefactError

CropMode = Literal["center", "squash", "border"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

MAX_PIXELS = 89_478_485
"""A quarter of a GiB of RGB: also Pillow's threshold for decompression bombs."""

MIN_SIDE = 4

MAX_RESIZED = 16384**2
"""The most pixels of a resized image before the crop: no network needs as many, and a file with more is damaged."""


@dataclass(frozen=True)
class Preprocessing:
    """How images are resized, cropped and normalised; the fields have the same meaning as in timm's `create_transform`.

    Attributes:
        height, width: of the network's input, in pixels.
        interpolation: the resampling filter, antialiased.
        crop_pct: the share of the resized image's sides that the crop keeps, 0.1 <= crop_pct <= 1.
        crop_mode: `center` keeps the aspect ratio and crops the middle; `squash` ignores the aspect ratio; `border`
            keeps the whole image and pads it.
        mean, std: per channel, for pixels scaled to [0, 1]: x' = (x / 255 - mean) / std.
        max_pixels, min_side: an image with more pixels, or with a shorter side, is refused.
    """

    height: int
    width: int
    interpolation: Interpolation
    crop_pct: float
    crop_mode: CropMode
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_pixels: int = MAX_PIXELS
    min_side: int = MIN_SIDE

    @classmethod
    def from_pretrained_cfg(cls, cfg: Mapping[str, Any], image_size: int | None = None) -> Preprocessing:
        """Read timm's `pretrained_cfg`; `image_size` replaces its input size (a square of that many pixels)."""
        _, height, width = cfg["input_size"]
        if image_size is not None:
            height = width = image_size
        return cls(
            height=height,
            width=width,
            interpolation=_choice(cfg.get("interpolation"), Interpolation, "bicubic"),
            crop_pct=float(cfg.get("crop_pct") or 0.875),
            crop_mode=_choice(cfg.get("crop_mode"), CropMode, "center"),
            mean=_three(cfg["mean"]),
            std=_three(cfg["std"]),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the file") -> Preprocessing:
        """Restore a specification from what `to_dict` returned.

        Args:
            where: the name of its file, for the message.

        Raises:
            ArtefactError: a field is missing or has an impossible value.
        """
        try:
            spec = cls(**{**values, "mean": _three(values["mean"]), "std": _three(values["std"])})
            sane = (
                1 <= spec.height <= 8192
                and 1 <= spec.width <= 8192
                and 0.1 <= spec.crop_pct <= 1
                and spec.height * spec.width <= MAX_RESIZED * spec.crop_pct**2
                and spec.max_pixels >= 1
                and spec.min_side >= 1
                and spec.interpolation in get_args(Interpolation)
                and spec.crop_mode in get_args(CropMode)
                and all(math.isfinite(m) for m in spec.mean)
                and all(math.isfinite(s) and s > 0 for s in spec.std)
            )
        except (TypeError, KeyError, ValueError) as error:
            raise ArtefactError(f"the preprocessing that {where} names is damaged: {error}") from error
        if not sane:
            raise ArtefactError(f"the preprocessing that {where} names has impossible values: {dict(values)}")
        return spec

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width, in pixels, of the image before the crop (rounded down, as in timm)."""
        return math.floor(self.height / self.crop_pct), math.floor(self.width / self.crop_pct)


def _three(values: Any) -> tuple[float, float, float]:
    numbers = tuple(float(v) for v in values)
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise ValueError(f"three channels expected, not {len(numbers)}")
    return numbers


def _choice(value: Any, choices: Any, default: str) -> Any:
    return value if value in get_args(choices) else default
