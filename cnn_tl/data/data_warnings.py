"""Warnings about images that can be used but perhaps not trusted: about a whole folder, and about blank images."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted
from cnn_tl.data.blank_images import WARNINGS
from cnn_tl.data.folders.find_images import natural_key, some_of
from cnn_tl.data.manifest import ImageRecord, Manifest

_IMBALANCE = 10
"""The largest class may have this many times the images of the smallest."""

HINT = "lists them, and finds copies that are resized, cropped or mirrored"
"""The end of the remark that names `cnn-tl doctor`."""


def remarks(manifest: Manifest, animated: int, root: Path) -> list[str]:
    """Return the warnings about a folder, one line each.

    Args:
        animated: the number of images with several frames.
        root: the folder as the user has named it.
    """
    copies = list(_copies(manifest))
    lines = [*_missing(manifest), *_few(manifest), *copies]
    if copies:
        command = f"cnn-tl doctor {shlex.quote(printable(root))}"
        lines.append(f"{command} {HINT}")
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


def blank_image_remarks(found: Iterable[tuple[str, str]]) -> list[str]:
    """Return the warnings for pairs of name and kind, one line for each kind, with the first names in natural order."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, kind in found:
        names[kind].append(name)
    return [
        f"{words}: {len(names[kind]):,} ({some_of(_sorted(names[kind]))})"
        for kind, words in WARNINGS.items()
        if names[kind]
    ]


def _sorted(names: list[str]) -> list[str]:
    return sorted(names, key=natural_key)
