"""One image file -> upright 8-bit RGB, read the same way everywhere, or a `BadImageError` that says why.

The format is told by content, the pixel limit is checked on the header before anything is decoded, and a
image counts as read only when every one of its pixels was decoded.
"""

from __future__ import annotations

import importlib
import io
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import Image
from PIL.ImageFile import ImageFile

from cnn_tl.core.errors import BadImageError
from cnn_tl.core.preprocessing import MAX_PIXELS, MIN_SIDE
from cnn_tl.core.retries import Watched, is_transient, retried
from cnn_tl.data.decoding.color import is_all_transparent, opened_to_rgb, to_rgb
from cnn_tl.data.decoding.file_types import CONVERT, HEAD_BYTES, UnsupportedError, accepted_kind, refusal

Result = TypeVar("Result")
Use = Callable[[str, ImageFile, BinaryIO], Result]

# The readers are called directly and not through `Image.open`, which measures images by Pillow's own pixel
# limit: a global of the process that is not ours to change. Ours is `ImageLimits`.
# Each is imported at its first image: one image is answered a tenth of a second earlier.
_READERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("cnn_tl.data.decoding.tiff", "TiffReader"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
}

_SECOND_TRIES = {
    "JPEG": "cnn_tl.data.decoding.jpeg",
    "PNG": "cnn_tl.data.decoding.png",
    "WEBP": "cnn_tl.data.decoding.webp",
}
"""What knows how to read an image that Pillow refuses for something else than its pixels."""


@dataclass(frozen=True)
class ImageLimits:
    """Which images are taken: at most `max_pixels` pixels in all, at least `min_side` on each side."""

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
    """Read the header of an image, and nothing else.

    Raises:
        BadImageError: it is no image of an accepted format, or is outside the limits.
        ResourceError: the machine could not read it, and that has lasted.
    """

    def look(kind: str, image: ImageFile, _: BinaryIO) -> ImageFacts:
        return ImageFacts(kind, *image.size, animated=bool(getattr(image, "is_animated", False)))

    return retried(lambda: _open(source, limits, look), _path_of(source))


def read_image(
    source: Path | bytes, limits: ImageLimits = DEFAULT_LIMITS, *, draft: tuple[int, int] | None = None
) -> Image.Image:
    """Decode a whole image: mode RGB, EXIF orientation applied, the first frame of several.

    Transparent parts become white; grey, palette, CMYK and CIELab are converted (ICC profiles and gamma are not
    applied); deeper pixels are scaled to 8 bits, as `depth.to_8_bits` says. What is not pixels, such as texts, profiles
    or an end marker, decides nothing, whatever is wrong with it.

    Args:
        source: a file, or the bytes of one.
        limits: the sizes that are taken.
        draft: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, never below this width and height.

    Raises:
        BadImageError: whatever is wrong with the image.
        ResourceError: the machine could not read it, and that has lasted.
    """

    def decode(kind: str, image: ImageFile, stream: BinaryIO) -> Image.Image:
        if draft is not None:
            image.draft(None, draft)
        return to_rgb(kind, image, stream)

    return retried(lambda: _open(source, limits, decode), _path_of(source))


def opened_already(image: Image.Image, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Return an image that Pillow has in memory, or has opened, as `read_image` would; it stays as it is.

    Raises:
        BadImageError: it cannot be decoded, or is outside the limits.
    """
    try:
        _check_size(None, image.size, limits)
        return opened_to_rgb(image)
    except BadImageError:
        raise
    except Exception as error:  # a decoder fed with garbage raises whatever it stumbles over
        raise BadImageError(None, _reason(image.format or "image", error)) from error


def is_transparent(source: Path | bytes) -> bool:
    """Decode an image and tell whether all of it is transparent.

    Raises:
        BadImageError, ResourceError: as `read_image` does.
    """

    def decode(kind: str, image: ImageFile, stream: BinaryIO) -> bool:
        return kind != "BMP" and is_all_transparent(image)

    return retried(lambda: _open(source, ImageLimits(min_side=1, max_pixels=sys.maxsize), decode), _path_of(source))


def _open(source: Path | bytes, limits: ImageLimits, use: Use[Result]) -> Result:
    """Return what `use` makes of the format, the undecoded image and its file.

    Raises:
        BadImageError: whatever is wrong with the image.
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
            result = _first_that_works(kind, stream, lambda image: _check_size(path, image.size, limits), use)
            if failed is not None and failed.failure is not None:
                raise failed.failure
            return result
    except BadImageError:
        raise
    except Exception as error:  # a decoder fed with garbage raises whatever it stumbles over
        cause = (failed.failure if failed is not None else None) or error
        if is_transient(cause, path):
            raise cause from None
        raise BadImageError(path, _reason(kind, error)) from error


def _first_that_works(kind: str, stream: BinaryIO, check: Callable[[ImageFile], None], use: Use[Result]) -> Result:
    """Return what `use` makes of the file as it is, or else of what is left of it without what is not pixels.

    Raises:
        BadImageError: the check failed.
        UnsupportedError: the image is of a kind that is not read.
        Exception: why the last try failed; nothing but pixels was left then.
    """
    failure: Exception | None = None
    for form in _forms(kind, stream):
        try:
            with _reader(kind)(form) as image:
                check(image)
                return use(kind, image, form)
        except (BadImageError, UnsupportedError):
            raise
        except Exception as error:
            if is_transient(error):
                raise
            failure = error
            if what := _unsupported(kind, stream):
                raise UnsupportedError(what) from error
    assert failure is not None, "the first form is the file itself"
    raise failure


def _forms(kind: str, stream: BinaryIO) -> Iterator[BinaryIO]:
    """Yield the file as it is, and, to who asks for more, forms of it without what is not pixels."""
    stream.seek(0)
    yield stream
    if kind in _SECOND_TRIES:
        forms = importlib.import_module(_SECOND_TRIES[kind]).second_tries(stream)
        with suppress(ValueError, LookupError, struct.error):  # of what is damaged; then the failure before counts
            yield from forms


def _path_of(source: Path | bytes) -> Path | None:
    return source if isinstance(source, Path) else None


def _reader(kind: str) -> type[ImageFile]:
    module, name = _READERS[kind]
    reader: type[ImageFile] = getattr(importlib.import_module(module), name)
    return reader


def _unsupported(kind: str, stream: BinaryIO) -> str | None:
    if kind != "JPEG":
        return None
    from cnn_tl.data.decoding import jpeg

    return jpeg.unsupported(stream)


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
    if isinstance(error, UnsupportedError):
        return f"{error} is not supported; {CONVERT}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()  # the system's refusal, not the decoder's
    if isinstance(error, Image.DecompressionBombError):  # some readers keep Pillow's limit all the same
        return f"more pixels than Pillow decodes from a {kind}"
    message = " ".join(str(error).split())[:120]
    if "truncated" in message.lower():
        return f"truncated {kind}"
    return f"damaged {kind} ({message})" if message.isprintable() and message else f"damaged {kind}"
