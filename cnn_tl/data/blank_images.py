"""Images that were read well and show nothing: of one colour, transparent all over, or within 1/16 of the range."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.errors import CnnTlError
from cnn_tl.data.decoding.image import is_transparent
from cnn_tl.data.folders.walk import natural_key, some_of

_NARROW = 16
"""Values of 0..255 within which an image shows next to nothing."""

_EVERY = 16
"""Rows, and columns, of which one is looked at first: most images show more than that there."""

_WORDS = {
    "transparent": "images that are transparent everywhere, and so white",
    "constant": "images of one colour all over",
    "narrow": "images whose values lie within 1/16 of the range, so that they show next to nothing",
}


class Looks:
    """Gathers the names of such images; many threads may call `see`."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def see(self, name: str, file: Path | None, pixels: NDArray[np.uint8]) -> None:
        """Look at the pixels of one image, decoded or resized, [H, W, C]; where all is white, its file is read anew."""
        if _range(pixels[::_EVERY, ::_EVERY]) > _NARROW:
            return
        width = _range(pixels)
        if width <= _NARROW:
            blank = width == 0 and pixels.size and pixels.flat[0] == 255 and file is not None and _is_transparent(file)
            self.found[name] = "transparent" if blank else "narrow" if width else "constant"

    def see_image(self, name: str, file: Path, image: Image.Image) -> None:
        """Look at a decoded image; all of it is looked at only where a few pixels show nothing."""
        if _range(np.asarray(image.resize((_EVERY, _EVERY), Image.Resampling.NEAREST))) <= _NARROW:
            self.see(name, file, np.asarray(image))

    def remarks(self) -> list[str]:
        """Return what was seen, a line for each kind, the first names in natural order."""
        return remarks(self.found.items())


def remarks(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the lines for names and kinds, as `Looks.found` has them."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, kind in found:
        names[kind].append(name)
    return [
        f"{words}: {len(names[kind]):,} ({some_of(_sorted(names[kind]))})"
        for kind, words in _WORDS.items()
        if names[kind]
    ]


def _sorted(names: list[str]) -> list[str]:
    return sorted(names, key=natural_key)


def _range(pixels: NDArray[np.uint8]) -> int:
    return int(pixels.max()) - int(pixels.min()) if pixels.size else 0


def _is_transparent(file: Path) -> bool:
    try:
        return is_transparent(file)
    except CnnTlError:  # it could be read a moment ago
        return False
