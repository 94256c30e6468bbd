"""Attributes of image files that should not tell the class: size, format, compression, camera; light and colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from cnn_tl.doctor.collection import Collection, Thumbnails

Values = NDArray[np.float64]
Words = NDArray[np.str_]


@dataclass(frozen=True)
class Column:
    """One value of each image, [N]: numbers, NaN where there is none, or words.

    `name` goes into sentences: "all images of class cat have NAME above 3"; `unit` stands after a number.
    """

    name: str
    values: Values | Words
    unit: str = ""


@dataclass(frozen=True)
class Attribute:
    """Columns that are judged together.

    Attributes:
        content: whether it is part of what the image shows, such as its colours, and may tell the class with reason.
    """

    name: str
    columns: tuple[Column, ...]
    content: bool = False


ALL = "all file attributes together"

CLIPPED = "clipped highlights"


def attributes_of(collection: Collection) -> list[Attribute]:
    """Return the attributes of a collection's images, also all of the file's together."""
    headers = collection.headers
    width, height = (
        np.array([getattr(header, side) or np.nan for header in headers], np.float64) for side in ("width", "height")
    )
    size = np.array([image.bytes for image in collection.images], np.float64)
    per_pixel = Column("a number of bytes per pixel", size / (width * height))
    one_size = len({(header.width, header.height) for header in headers}) == 1
    of_file = [
        Attribute("format", (Column("format", _words([one.format for one in headers])),)),
        Attribute("colour mode", (Column("mode", _words([one.mode for one in headers])),)),
        Attribute("size", (Column("a width", width, "px"), Column("a height", height, "px"))),
        Attribute("shape", (Column("a width divided by height", np.round(width / height, 3)),)),
        Attribute("JPEG quality", (Column("a JPEG quality", np.array([_number(one.quality) for one in headers])),)),
        Attribute("camera", (Column("camera", _words([one.camera or "none" for one in headers])),)),
        Attribute("time taken", (Column("a time taken", np.array([seconds(one.taken) for one in headers])),)),
    ]
    together = Attribute(ALL, tuple(column for one in of_file for column in one.columns))
    return [
        *(*of_file, together),
        Attribute("file size", (Column("a file size", size, "bytes"),), content=True),  # much detail takes many bytes
        *([] if one_size else [Attribute("bytes per pixel", (per_pixel,), content=True)]),
        _measures(collection, "light", "brightness", "contrast", "dark", "light"),
        Attribute(CLIPPED, (Column("a share of clipped highlights", _clipped(collection.thumbnails)),), content=True),
        _measures(collection, "colour", "red", "green", "blue", "saturation"),
        _measures(collection, "sharpness", "sharpness", "detail"),
        _measures(collection, "border", "border_red", "border_green", "border_blue", "border_contrast"),
        *_edges(collection.thumbnails),
    ]


_NAMES = {
    "brightness": "a mean brightness",
    "contrast": "a contrast (standard deviation of the brightness)",
    "dark": "a 5th percentile of the brightness",
    "light": "a 95th percentile of the brightness",
    "sharpness": "a sharpness",
    "detail": "a difference between neighbouring pixels",
    "saturation": "a mean saturation",
    "border_contrast": "a contrast of the border",
}


def _measures(collection: Collection, name: str, *columns: str) -> Attribute:
    made = []
    for one in columns:
        of, _, colour = one.rpartition("_")
        words = _NAMES.get(one) or (f"a mean {colour} of the border" if of else f"a mean {one}")
        made.append(Column(words, collection.measure(one).astype(np.float64)))
    return Attribute(name, tuple(made), content=True)


_WHITE, _BRIGHT = 252, 205
_BLOCK = 1024


def _clipped(thumbnails: Thumbnails) -> Values:
    """Return the share of the bright pixels of each image that are white in a channel, [N].

    It tells images that were brightened afterwards from bright scenes, which have all shades of bright.
    """
    shares = np.empty(len(thumbnails))
    for start in range(0, len(thumbnails), _BLOCK):
        brightest = thumbnails[start : start + _BLOCK].max(3).reshape(len(shares[start : start + _BLOCK]), -1)
        white, bright = (brightest >= _WHITE).sum(1), (brightest >= _BRIGHT).sum(1)
        shares[start : start + _BLOCK] = (white + 1) / (bright + 10)
    return shares


_STRIP = 3
_CORNER = 10


def _edges(thumbnails: Thumbnails) -> list[Attribute]:
    """Return the colours and the contrast of the four sides and corners of thumbnails [N, S, S, 3]: frames, logos."""
    strip, corner = slice(0, _STRIP), slice(0, _CORNER)
    last, far = slice(-_STRIP, None), slice(-_CORNER, None)
    everywhere = slice(None)
    places = {
        **{"top edge": (strip, everywhere), "bottom edge": (last, everywhere)},
        **{"left edge": (everywhere, strip), "right edge": (everywhere, last)},
        **{"top left corner": (corner, corner), "top right corner": (corner, far)},
        **{"bottom left corner": (far, corner), "bottom right corner": (far, far)},
    }
    return [_edge(name, thumbnails[:, rows, columns]) for name, (rows, columns) in places.items()]


def _edge(name: str, pixels: Thumbnails) -> Attribute:
    flat = pixels.reshape(len(pixels), -1, 3)
    means, contrast = flat.mean(1, dtype=np.float64), flat.std(1, dtype=np.float32).mean(1).astype(np.float64)
    columns = [Column(f"a mean {colour} of the {name}", means[:, at]) for at, colour in enumerate(_COLOURS)]
    return Attribute(name, (*columns, Column(f"a contrast of the {name}", contrast)), content=True)


_COLOURS = ("red", "green", "blue")


def seconds(taken: str | None) -> float:
    """Return an EXIF time in seconds since 1970; NaN if there is none or it is no time."""
    try:
        return datetime.strptime(taken or "", "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except (ValueError, OverflowError):
        return float("nan")


def _number(value: int | None) -> float:
    return float("nan") if value is None else float(value)


def _words(values: Sequence[str]) -> Words:
    return np.array([value or "unknown" for value in values], np.str_)


def constant(attribute: Attribute) -> bool:
    """Return whether an attribute is the same for all images and so tells nothing."""
    return all(len(codes_of(column)[1]) < 2 for column in attribute.columns)


_BINS = 16
_DISTINCT = 24
"""Up to this many different values each is a bin of its own; of more words, the commonest."""


def codes_of(column: Column) -> tuple[NDArray[np.int64], list[str]]:
    """Return the bin of each image, [N], and the bins' names; a missing number is a bin of its own."""
    values = column.values
    if values.dtype.kind == "U":
        words, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        rank = np.empty(len(words), np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(words))
        codes = np.minimum(rank[inverse], _DISTINCT)
        names = [str(words[index]) for index in np.argsort(-counts, kind="stable")[: _DISTINCT + 1]]
        return codes, names
    values = values.astype(np.float64)
    known = np.isfinite(values)
    distinct = np.unique(values[known])
    if len(distinct) > _DISTINCT:
        bins = int(np.clip(np.sqrt(known.sum()) / 2, 2, _BINS))
        distinct = np.unique(np.quantile(values[known], np.linspace(0, 1, bins + 1)[1:-1]))
        codes = np.searchsorted(distinct, values, side="right")
        number = len(distinct) + 1
    else:
        codes = np.searchsorted(distinct, values)
        number = len(distinct)
    codes[~known] = number
    used, codes = np.unique(codes, return_inverse=True)
    return codes.astype(np.int64), [str(one) for one in used]
