"""Converts an image that Pillow has decoded to upright 8-bit RGB; transparent regions become white."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from cnn_tl.data.decoding.bit_depth import to_8_bits


def to_rgb(kind: str, image: ImageFile, stream: BinaryIO) -> Image.Image:
    """Decode an open image of the format `kind` to upright RGB.

    Args:
        stream: the image's file; some variants are decoded twice.
    """
    if kind == "PNG":
        return _png_to_rgb(image, stream)
    image.load()
    _rotate_upright(image)
    if kind == "TIFF":
        from cnn_tl.data.decoding.tiff import TiffReader, deep_to_8_bits

        assert isinstance(image, TiffReader)
        return _on_white(deep_to_8_bits(image, stream) if image.is_deep else image)
    if kind == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # an unused fourth byte; viewers show the other three
    return _on_white(image)


def opened_to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image that the caller has opened or made, without changing it."""
    image.load()
    upright = image
    with suppress(Exception):  # damaged EXIF does not affect the pixels
        upright = ImageOps.exif_transpose(image)
    return _on_white(upright)


def is_all_transparent(image: ImageFile) -> bool:
    """Decode an open image and return whether it is completely transparent."""
    image.load()
    if not image.has_transparency_data:
        return False
    seen = image.convert("LA") if image.mode == "La" else image
    return seen.convert("RGBA").getchannel("A").getextrema() == (0, 0)


def _png_to_rgb(image: ImageFile, stream: BinaryIO) -> Image.Image:
    from cnn_tl.data.decoding.png import load

    opaque = load(image, stream)
    if opaque is None:
        _rotate_upright(image)
        return _on_white(image)
    opaque.info = image.info.copy()  # with the orientation
    _rotate_upright(opaque)
    _rotate_upright(image)
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(_on_white(image), mask=opaque)
    return canvas


def _rotate_upright(image: Image.Image) -> None:
    with suppress(Exception):  # damaged EXIF does not affect the pixels
        ImageOps.exif_transpose(image, in_place=True)


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        canvas = Image.new("RGB", image.size, "white")
        seen = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        canvas.paste(seen, mask=seen)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)) for name in ("LAB", "sRGB"))
    return ImageCms.ImageCmsTransform(lab, srgb, "LAB", "RGB").apply(image)
