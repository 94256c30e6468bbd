"""`read_image`: the only way from an image file to an upright 8-bit RGB image, or to a `BadImageError`.

The format is recognised by content, the pixel limit is checked on the header before anything is decoded, and an image
counts as read only if every one of its pixels was decoded.
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
from typing import BinaryIO, Protocol, TypeVar

from PIL import Image
from PIL.ImageFile import ImageFile

from cnn_tl.core.errors import BadImageError
from cnn_tl.core.preprocessing import MAX_PIXELS, MIN_SIDE
from cnn_tl.core.retries import Watched, is_transient, retried
from cnn_tl.data.decoding.color import is_all_transparent, opened_to_rgb, to_rgb
from cnn_tl.data.decoding.file_types import CONVERT, HEAD_BYTES, UnsupportedError, accepted_kind, refusal
from cnn_tl.data.decoding.headers import plain_header

Result = TypeVar("Result")
Use = Callable[[str, ImageFile, BinaryIO], Result]

# The readers are called directly and not by `Image.open`, which applies Pillow's own pixel limit: a global of the
# process that a library must not change. Each is imported with its first image, which saves a tenth of a second.
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
"""Format -> module that can read an image that Pillow refuses because of something other than its pixels."""


class Limits(Protocol):
    """Limits on the size of images, such as `ImageLimits` and `Preprocessing` have."""

    @property
    def max_pixels(self) -> int:
        """The largest number of pixels."""
        ...

    @property
    def min_side(self) -> int:
        """The smallest width and height, in pixels."""
        ...


@dataclass(frozen=True)
class ImageLimits:
    """Which images are accepted: at most `max_pixels` pixels in total, at least `min_side` on each side."""

    max_pixels: int = MAX_PIXELS
    min_side: int = MIN_SIDE


@dataclass(frozen=True)
class ImageFacts:
    """An image's header: the format, the size in pixels before EXIF rotation, and whether it has several frames."""

    format: str
    width: int
    height: int
    animated: bool


DEFAULT_LIMITS = ImageLimits()


def probe(source: Path | bytes, limits: Limits = DEFAULT_LIMITS) -> ImageFacts:
    """Read only the header of an image.

    Raises:
        BadImageError: it is not an image of an accepted format, or is outside the limits.
        ResourceError: the machine could not read it, even after several attempts.
    """

    def look(kind: str, image: ImageFile, _: BinaryIO) -> ImageFacts:
        return ImageFacts(kind, *image.size, animated=bool(getattr(image, "is_animated", False)))

    return retried(lambda: _open(source, limits, look), _path_of(source))


def probe_head(head: bytes, limits: Limits = DEFAULT_LIMITS) -> ImageFacts | None:
    """Return what `probe` would, from the first bytes of an ordinary JPEG or PNG; None if `probe` has to look.

    Raises:
        BadImageError: the image is outside the limits.
    """
    plain = plain_header(head)
    if plain is None:
        return None
    _check_size(None, plain[1:], limits)
    return ImageFacts(*plain, animated=False)


def read_image(
    source: Path | bytes, limits: Limits = DEFAULT_LIMITS, *, draft: tuple[int, int] | None = None
) -> Image.Image:
    """Decode a whole image: mode RGB, upright (EXIF orientation applied), the first of several frames.

    Transparent regions become white. Grey, palette, CMYK and CIELab images are converted, without ICC profiles and
    gamma; deeper pixels are scaled to 8 bits, see `bit_depth.to_8_bits`. Damage outside of the pixels, such as in
    texts, profiles or an end marker, is ignored.

    Args:
        source: a file, or the bytes of one.
        limits: the accepted sizes; a `Preprocessing` has them.
        draft: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, never below this width and height.

    Raises:
        BadImageError: the image cannot be decoded, or is outside the limits.
        ResourceError: the machine could not read it, even after several attempts.
    """

    def decode(kind: str, image: ImageFile, stream: BinaryIO) -> Image.Image:
        if draft is not None:
            image.draft(None, draft)
        return to_rgb(kind, image, stream)

    return retried(lambda: _open(source, limits, decode), _path_of(source))


def from_pillow(image: Image.Image, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Convert an image that the caller has opened or made with Pillow, as `read_image` would; it is not changed.

    Raises:
        BadImageError: it cannot be decoded, or is outside the limits.
    """
    try:
        _check_size(None, image.size, limits)
        return opened_to_rgb(image)
    except BadImageError:
        raise
    except Exception as error:  # on garbage, a decoder can raise anything
        raise BadImageError(None, _reason(image.format or "image", error)) from error


def is_transparent(source: Path | bytes) -> bool:
    """Decode an image and return whether it is completely transparent.

    Raises:
        BadImageError, ResourceError: as `read_image` does.
    """

    def decode(kind: str, image: ImageFile, stream: BinaryIO) -> bool:
        return kind != "BMP" and is_all_transparent(image)

    return retried(lambda: _open(source, ImageLimits(min_side=1, max_pixels=sys.maxsize), decode), _path_of(source))


def _open(source: Path | bytes, limits: Limits, use: Use[Result]) -> Result:
    """Open an image and return the result of `use`, called with the format, the undecoded image and its file.

    Raises:
        BadImageError: the image cannot be decoded, or is outside the limits.
        OSError, MemoryError: the machine failed in a way that may pass, even if the decoder has swallowed the error.
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
    except Exception as error:  # on garbage, a decoder can raise anything
        cause = (failed.failure if failed is not None else None) or error
        if is_transient(cause, path):
            raise cause from None
        raise BadImageError(path, _reason(kind, error)) from error


def _first_that_works(kind: str, stream: BinaryIO, check: Callable[[ImageFile], None], use: Use[Result]) -> Result:
    """Return the result of `use` on the file as it is or, if that fails, on forms of it without other data than pixels.

    Raises:
        BadImageError: the check failed.
        UnsupportedError: this variant of the format is not supported.
        Exception: why the last attempt failed, on a form with nothing but pixels.
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
    """Yield the file as it is, then forms of it without other data than pixels."""
    stream.seek(0)
    yield stream
    if kind in _SECOND_TRIES:
        forms = importlib.import_module(_SECOND_TRIES[kind]).second_tries(stream)
        with suppress(ValueError, LookupError, struct.error):  # it is damaged: then the previous failure counts
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
    if not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would block
        raise BadImageError(source, "not a regular file")
    return io.BufferedReader(Watched(source))


def _check_size(path: Path | None, size: tuple[int, int], limits: Limits) -> None:
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
        return error.strerror.lower()  # the system's error, not the decoder's
    if isinstance(error, Image.DecompressionBombError):  # some readers apply Pillow's limit nevertheless
        return f"more pixels than Pillow decodes from a {kind}"
    message = " ".join(str(error).split())[:120]
    if "truncated" in message.lower():
        return f"truncated {kind}"
    return f"damaged {kind} ({message})" if message.isprintable() and message else f"damaged {kind}"
