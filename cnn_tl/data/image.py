"""One picture file -> upright 8-bit RGB, read the same way everywhere, or a `BadImageError` that says why.

The format is told by content, the pixel limit is checked on the header before anything is decoded, and a
picture counts as read only when every one of its pixels was decoded.
"""

from __future__ import annotations

import importlib
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from cnn_tl.data.kinds import HEAD_BYTES, accepted_kind, refusal
from cnn_tl.errors import BadImageError
from cnn_tl.preprocessing import MAX_PIXELS, MIN_SIDE
from cnn_tl.transient import Watched, is_transient, retried

# The readers are called directly and not through `Image.open`, which measures pictures by Pillow's own pixel
# limit: a global of the process that is not ours to change. Ours is `ImageLimits`.
# Each is imported at its first picture: one picture is answered a tenth of a second earlier.
_READERS = {
    "JPEG": ("JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
    "PPM": ("PpmImagePlugin", "PpmImageFile"),
}

# What they murmur about damaged metadata is no news for the user. Silenced once and for all, because
# `catch_warnings` is not safe between threads.
warnings.filterwarnings("ignore", module=r"PIL\.\w+ImagePlugin")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageLimits:
    """Which pictures are taken: at most `max_pixels` pixels in all, at least `min_side` on each side."""

    max_pixels: int = MAX_PIXELS
    min_side: int = MIN_SIDE


@dataclass(frozen=True)
class ImageFacts:
    """What the header says: the format, the size in pixels before EXIF rotation, one frame or several."""

    format: str
    width: int
    height: int
    animated: bool


DEFAULT_LIMITS = ImageLimits()


def probe(source: Path | bytes, limits: ImageLimits = DEFAULT_LIMITS) -> ImageFacts:
    """Read the header of a picture, and nothing else.

    Raises:
        BadImageError: it is no picture of an accepted format, or is outside the limits.
        ResourceError: the machine could not read it, and that has lasted.
    """

    def look() -> ImageFacts:
        with _opened(source, limits) as (kind, image):
            return ImageFacts(kind, *image.size, animated=bool(getattr(image, "is_animated", False)))

    return retried(look, _path_of(source))


def read_image(
    source: Path | bytes, limits: ImageLimits = DEFAULT_LIMITS, *, draft: tuple[int, int] | None = None
) -> Image.Image:
    """Decode a whole picture: mode RGB, EXIF orientation applied, the first frame of several.

    Transparent parts become white; grey, palette and CMYK are converted (ICC profiles are not applied);
    deeper pixels are scaled to 8 bits, as `_to_8_bits` says.

    Args:
        source: a file, or the bytes of one.
        limits: the sizes that are taken.
        draft: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, never below this width and height.

    Raises:
        BadImageError: whatever is wrong with the picture.
        ResourceError: the machine could not read it, and that has lasted.
    """

    def decode() -> Image.Image:
        with _opened(source, limits) as (_, image):
            if draft is not None:
                image.draft(None, draft)
            image.load()
            _turn_upright(image)
            return _to_rgb(image)

    return retried(decode, _path_of(source))


@contextmanager
def _opened(source: Path | bytes, limits: ImageLimits) -> Iterator[tuple[str, ImageFile]]:
    """Yield the format and the undecoded picture; whatever is wrong with it becomes a `BadImageError`.

    Raises:
        OSError, MemoryError: the machine failed in a way that may pass, even if the decoder has swallowed it.
    """
    path = _path_of(source)
    kind = "file"
    failed: Watched | None = None
    try:
        with _stream(source) as stream:
            failed = getattr(stream, "raw", None)
            head = stream.read(HEAD_BYTES)
            found = accepted_kind(head)
            if found is None:
                raise BadImageError(path, refusal(head))
            kind = found
            stream.seek(0)
            with _reader(kind)(stream) as image:
                _check_size(path, image.size, limits)
                yield kind, image
            if failed is not None and failed.failure is not None:
                raise failed.failure
    except BadImageError:
        raise
    except Exception as error:  # a decoder fed with garbage raises whatever it stumbles over
        cause = (failed.failure if failed is not None else None) or error
        if is_transient(cause, path):
            raise cause from None
        raise BadImageError(path, _reason(kind, error)) from error


def _path_of(source: Path | bytes) -> Path | None:
    return source if isinstance(source, Path) else None


def _reader(kind: str) -> type[ImageFile]:
    module, name = _READERS[kind]
    reader: type[ImageFile] = getattr(importlib.import_module(f"PIL.{module}"), name)
    return reader


def _stream(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would wait for ever
        raise BadImageError(source, "not a regular file")
    return io.BufferedReader(Watched(source))


def _check_size(path: Path | None, size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    measured = f"{width:,} × {height:,} pixels"
    if width * height > limits.max_pixels:
        raise BadImageError(path, f"{measured}, over the limit of {limits.max_pixels:,} (data.max_pixels)")
    if min(size) < limits.min_side:
        raise BadImageError(path, f"{measured}, a side under {limits.min_side} (data.min_side)")


def _reason(kind: str, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()  # the system's refusal, not the decoder's
    if isinstance(error, Image.DecompressionBombError):  # some readers keep Pillow's limit all the same
        return f"more pixels than Pillow decodes from a {kind}"
    message = " ".join(str(error).split())[:120]
    if "truncated" in message.lower():
        return f"truncated {kind}"
    return f"damaged {kind} ({message})" if message.isprintable() and message else f"damaged {kind}"


def _turn_upright(image: ImageFile) -> None:
    with suppress(Exception):  # damaged EXIF says nothing against the pixels
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        canvas = Image.new("RGB", image.size, "white")
        seen = image.convert("RGBA")
        canvas.paste(seen, mask=seen)
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale one channel of integers or floats to 0..255.

    Integers mean 0..65535, floats 0..1 or else 0..255; values outside such a range are stretched, from the
    smallest to the largest.
    """
    pixels = np.clip(np.nan_to_num(np.asarray(image, dtype=np.float32)), -1e30, 1e30)
    low, high = float(pixels.min()), float(pixels.max())
    ranges = (1.0, 255.0) if image.mode == "F" else (65535.0,)
    if low >= 0 and high <= ranges[-1]:
        low, high = 0.0, next(top for top in ranges if high <= top)
    pixels -= low
    pixels *= 255 / max(high - low, 1e-30)
    return Image.fromarray(np.rint(pixels).astype(np.uint8))
