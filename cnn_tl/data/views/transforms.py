"""From an image to the network's input: one implementation for validation and every later command.

    file --read_image--> upright RGB image --resize_and_crop--> pixels uint8 [H, W, C] --normalise--> float32 [C, H, W]
         `------------------- read_pixels -------------------------^

The result equals timm's `create_transform(is_training=False)`, without torch. With torch, `networks.backbone.to_input`
normalises on the device instead. Arrays carry their shape in their name: H height, W width, C channel, N image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import read_image

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LONGEST_STRIP = 16
_BLACK = (0, 0, 0)


def read_pixels(source: Path | bytes, spec: Preprocessing) -> NDArray[np.uint8]:
    """Read an image file, or its bytes, and return its pixels for the network, uint8 [H, W, C].

    Raises:
        BadImageError: the image cannot be read, or is outside the limits of the specification.
        ResourceError: the machine could not read it, even after several attempts.
    """
    return resize_and_crop(read_image(source, spec, draft=draft_size(spec)), spec)


def draft_size(spec: Preprocessing, zoom: float = 1) -> tuple[int, int]:
    """Return the minimum width and height at which a JPEG may be decoded: twice the size to which it is then resized.

    Args:
        zoom: how much larger the image must be because only a part of it will be used.
    """
    side = round(2 * zoom * max(spec.resized))
    return side, side


def resize_and_crop(image: Image.Image, spec: Preprocessing) -> NDArray[np.uint8]:
    """Resize and crop an upright RGB image, without any randomness; return uint8 [H, W, C]."""
    fill = _BLACK
    if spec.crop_mode == "center":
        image = trim_strip(image)
    elif spec.crop_mode == "border":
        fill = mean_colour(spec)
    height, width = resized(image, spec)
    image = image.resize((width, height), FILTERS[spec.interpolation])
    canvas = Image.new("RGB", (spec.width, spec.height), fill)
    canvas.paste(image, (-_offset(width, spec.width), -_offset(height, spec.height)))
    return np.asarray(canvas)


def plain_box(width: int, height: int, spec: Preprocessing) -> tuple[float, float, float, float] | None:
    """Return which part of an image of this size `resize_and_crop` resizes to the network's input.

    Returns:
        Left, top, right, bottom in pixels; None if there is no such part, as it adds a border.
    """
    if spec.crop_mode == "border":
        return None
    kept_w, kept_h = _trimmed(width, height) if spec.crop_mode == "center" else (width, height)
    resized_h, resized_w = _resized(kept_w, kept_h, spec)
    if resized_h < spec.height or resized_w < spec.width:
        return None
    scale_x, scale_y = kept_w / resized_w, kept_h / resized_h
    left = _offset(width, kept_w) + scale_x * _offset(resized_w, spec.width)
    top = _offset(height, kept_h) + scale_y * _offset(resized_h, spec.height)
    return left, top, left + scale_x * spec.width, top + scale_y * spec.height


def resized(image: Image.Image, spec: Preprocessing) -> tuple[int, int]:
    """Return the height and width, in pixels, of an image after resizing, before the crop."""
    return _resized(image.width, image.height, spec)


def _resized(width: int, height: int, spec: Preprocessing) -> tuple[int, int]:
    target_h, target_w = spec.resized
    if spec.crop_mode == "squash":
        return target_h, target_w
    if spec.crop_mode == "center" and target_h == target_w:
        # torchvision's Resize rounds the longer side down, timm's own rounds to the nearest
        short = min(width, height)
        return target_h * height // short, target_h * width // short
    ratios = height / target_h, width / target_w
    ratio = max(ratios) if spec.crop_mode == "border" else min(ratios)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def mean_colour(spec: Preprocessing) -> tuple[int, int, int]:
    """Return the RGB colour that `normalise` maps to about zero, so it carries no information."""
    red, green, blue = (min(max(round(255 * mean), 0), 255) for mean in spec.mean)
    return red, green, blue


def normalise(pixels_nhwc: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.float32]:
    """Scale uint8 [N, H, W, C] by the specification's mean and std; return float32 [N, C, H, W]."""
    x_nchw = np.ascontiguousarray(pixels_nhwc.transpose(0, 3, 1, 2), dtype=np.float32)
    x_nchw /= 255
    x_nchw -= np.asarray(spec.mean, np.float32).reshape(3, 1, 1)
    x_nchw /= np.asarray(spec.std, np.float32).reshape(3, 1, 1)
    return x_nchw


def _offset(size: int, wanted: int) -> int:
    """Return where the middle `wanted` of `size` pixels start; negative if padding is needed."""
    return round((size - wanted) / 2) if size >= wanted else -((wanted - size) // 2)


def trim_strip(image: Image.Image) -> Image.Image:
    """Crop the ends of a long strip: the centre crop never reaches them, and resizing them could fill the memory."""
    width, height = _trimmed(*image.size)
    if (width, height) == image.size:
        return image
    left, top = _offset(image.width, width), _offset(image.height, height)
    return image.crop((left, top, left + width, top + height))


def _trimmed(width: int, height: int) -> tuple[int, int]:
    longest = LONGEST_STRIP * min(width, height)
    return min(width, longest), min(height, longest)
