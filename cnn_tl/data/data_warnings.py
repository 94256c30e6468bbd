"""Warnings about images that can be used but perhaps not trusted: about a whole folder, and about blank images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.errors import CnnTlError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.data.decoding.image import is_transparent
from cnn_tl.data.folders.find_images import natural_key, some_of
from cnn_tl.data.manifest import ImageRecord, Manifest

_IMBALANCE = 10
"""The largest class may have this many times the images of the smallest."""

_NARROW = 16
"""An image whose values of 0..255 all lie within this range shows almost nothing."""

_STEP = 16
"""Distance of the rows, and columns, that are checked first: most images already show more there."""

_BLANK = {
    "transparent": "images that are completely transparent, and so white",
    "constant": "images of one colour all over",
    "narrow": "images whose values lie within 1/16 of the range, so that they show almost nothing",
}
"""Kind of blank image -> its warning."""


def remarks(manifest: Manifest, animated: int) -> list[str]:
    """Return the warnings about a folder, one line each; `animated` is the number of images with several frames."""
    lines = [*_missing(manifest), *_few(manifest), *_copies(manifest)]
    if animated:
        lines.append(f"animated images, of which only the first frame is used: {animated:,}")
    return lines


def _missing(manifest: Manifest) -> Iterator[str]:
    counts = manifest.counts()
    for split in ("val", "test"):
        missing = [name for name, count in counts.items() if not count[split]]
        if missing and manifest.of(split):
            yield f"classes without an image in {split}: {some_of(missing)}"


def _few(manifest: Manifest) -> Iterator[str]:
    sizes = {name: count["train"] for name, count in manifest.counts().items()}
    single = [name for name, size in sizes.items() if size == 1]
    if single:
        yield f"classes with only one training image: {some_of(single)}"
    most, least = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
    if sizes[most] >= _IMBALANCE * sizes[least]:
        yield (
            f"the classes are far from balanced: {counted(sizes[most], 'training image')} of {printable(most)}, "
            f"{sizes[least]:,} of {printable(least)}"
        )


def _copies(manifest: Manifest) -> Iterator[str]:
    """Warn of equal files: in val or test they inflate the accuracy, in two classes one of the labels is wrong."""
    same: dict[str, list[ImageRecord]] = defaultdict(list)
    for image in manifest.images:
        same[image.sha256].append(image)
    groups = [group for group in same.values() if len(group) > 1]
    for split in ("val", "test"):
        leaks = [
            next(image for image in group if image.split == split)
            for group in groups
            if {"train", split} <= {image.split for image in group}
        ]
        if leaks:
            yield (
                f"images of {split} that are also in train, which makes the accuracy look too good: "
                f"{len(leaks):,} (such as {printable(leaks[0].path)})"
            )
    conflicting = [group for group in groups if len({image.label for image in group}) > 1]
    if conflicting:
        pair = " and ".join(printable(image.path) for image in conflicting[0][:2])
        yield f"images that are in two classes at once: {len(conflicting):,} (such as {pair})"
    within = sum(len(group) - len({(p.label, p.split) for p in group}) for group in groups)
    if within:
        yield f"copies of another image of the same class and split: {within:,}"


class BlankImages:
    """Collects images that were decoded but show nothing: of one colour, transparent, or almost without contrast.

    Many threads may call `check_pixels` and `check_image`.

    Attributes:
        found: name -> kind, a key of `_BLANK`.
    """

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def check_pixels(self, name: str, file: Path | None, pixels: NDArray[np.uint8]) -> None:
        """Check the pixels of an image, decoded or resized, [H, W, C]; if all are white, its file is read again."""
        if _range(pixels[::_STEP, ::_STEP]) > _NARROW:
            return
        width = _range(pixels)
        if width <= _NARROW:
            blank = width == 0 and pixels.size and pixels.flat[0] == 255 and file is not None and _is_transparent(file)
            self.found[name] = "transparent" if blank else "narrow" if width else "constant"

    def check_image(self, name: str, file: Path, image: Image.Image) -> None:
        """Check a decoded image; all of it only if a few of its pixels show nothing."""
        if _range(np.asarray(image.resize((_STEP, _STEP), Image.Resampling.NEAREST))) <= _NARROW:
            self.check_pixels(name, file, np.asarray(image))

    def remarks(self) -> list[str]:
        """Return the warnings, one line for each kind, with the first names in natural order."""
        return blank_image_remarks(self.found.items())


def blank_image_remarks(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the warnings for pairs of name and kind, as in `BlankImages.found`."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, kind in found:
        names[kind].append(name)
    return [
        f"{words}: {len(names[kind]):,} ({some_of(_sorted(names[kind]))})"
        for kind, words in _BLANK.items()
        if names[kind]
    ]


def _sorted(names: list[str]) -> list[str]:
    return sorted(names, key=natural_key)


def _range(pixels: NDArray[np.uint8]) -> int:
    return int(pixels.max()) - int(pixels.min()) if pixels.size else 0


def _is_transparent(file: Path) -> bool:
    try:
        return is_transparent(file)
    except CnnTlError:  # it was readable a moment ago
        return False
