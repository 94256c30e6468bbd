"""Groups of images that belong together, such as copies, frames of one film or photos of one patient.

A group never crosses splits: else a model is measured on images that it almost knows. Equal files always belong
together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.data.corrections import columns_of, read_rows
from cnn_tl.data.manifest import SPLITS, ImageRecord

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def groups_by_pattern(pattern: str, below_class: Mapping[str, str]) -> dict[str, str]:
    """Return image -> group by a regular expression: its first group, or the whole match if it has none.

    Args:
        below_class: image -> its path below its class folder, in which the expression is searched.

    Raises:
        DataError: it matches no image.
    """
    expression = re.compile(pattern)
    chosen = 1 if expression.groups else 0
    found = {}
    for path, below in below_class.items():
        match = expression.search(below)
        if match is not None and (name := match.group(chosen)):
            found[path] = name
    if not found:
        example = next(iter(below_class.values()), "")
        also = "; a file of groups must end in .csv" if Path(pattern).exists() else ""
        raise DataError(
            f"data.groups: {printable(pattern)} matches no image; it is searched in the path below the class folder, "
            f"such as {printable(example)}{also}"
        )
    return found


def groups_in_file(file: Path) -> dict[str, str]:
    """Return image -> group of a CSV file with the columns image and group, or of the verified pairs of a twins.csv.

    Raises:
        DataError: the file cannot be used, or has an image in two groups.
    """
    columns = columns_of(file)
    if "image_a" in columns and "image" not in columns:
        return _groups_of_pairs(_verified_pairs(file))
    found: dict[str, tuple[str, int]] = {}
    for number, (image, group) in read_rows(file, ("image", "group")):
        before, line = found.setdefault(image, (group, number))
        if before != group:
            raise DataError(
                f"{printable(file)}, line {number} has {printable(image)} in group {printable(group)}, and line {line} "
                f"in group {printable(before)}; an image has one group"
            )
    return {image: group for image, (group, _) in found.items()}


def _verified_pairs(file: Path) -> Iterable[tuple[str, str]]:
    for number, (one, other, verified) in read_rows(file, ("image_a", "image_b", "verified")):
        if verified.casefold() not in (*_TRUE, *_FALSE):
            raise DataError(f"{printable(file)}, line {number}: verified is {printable(verified)}, not true or false")
        if verified.casefold() in _TRUE:
            yield one, other


def _groups_of_pairs(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return image -> group, named by its first image."""
    together = _Union()
    for one, other in pairs:
        together.join(one, other)
    return {path: together.find(path) for path in together.items()}


class _Union:
    """Disjoint sets of texts; a set is named by the one of its texts that came first."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._order: dict[str, int] = {}

    def items(self) -> list[str]:
        return list(self._parent)

    def find(self, item: str) -> str:
        self._order.setdefault(item, len(self._order))
        root = self._parent.setdefault(item, item)
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[item] != root:
            self._parent[item], item = root, self._parent[item]
        return root

    def join(self, one: str, other: str) -> None:
        first, second = sorted((self.find(one), self.find(other)), key=self._order.__getitem__)
        self._parent[second] = first


def grouped(images: Sequence[ImageRecord], groups: Mapping[str, str]) -> list[ImageRecord]:
    """Return the images with their groups: equal files are in one, even if nobody has named it.

    Groups that share an equal file are one. An image that is alone is in no group.
    """
    together = _Union()
    for image in images:
        together.join(f"image {image.path}", f"file {image.sha256}")
        if image.path in groups:
            together.join(f"image {image.path}", f"group {groups[image.path]}")
    members: dict[str, list[ImageRecord]] = defaultdict(list)
    for image in images:
        members[together.find(f"image {image.path}")].append(image)
    names: dict[str, str] = {}
    for own in members.values():
        if len(own) > 1:
            named = [groups[image.path] for image in own if image.path in groups]
            names |= dict.fromkeys((image.path for image in own), min(named, default=f"copies of {own[0].path}"))
    return [replace(image, group=names.get(image.path, "")) for image in images]


@dataclass(frozen=True)
class Apart:
    """Images whose groups cross no splits.

    Attributes:
        images: those to use.
        kept_apart: those that are left out.
        notes: what was left out and why, for the user.
    """

    images: tuple[ImageRecord, ...]
    kept_apart: tuple[ImageRecord, ...] = ()
    notes: tuple[str, ...] = ()


def keep_apart(images: Sequence[ImageRecord]) -> Apart:
    """Leave out images whose group has images in a later split: of train for val and test, of val for test."""
    last: dict[str, ImageRecord] = {}
    for image in images:
        if image.group and SPLITS.index(image.split) > SPLITS.index(last.setdefault(image.group, image).split):
            last[image.group] = image
    out = [image for image in images if image.group and last[image.group].split != image.split]
    if not out:
        return Apart(tuple(images))
    from_splits = " and ".join(
        f"{sum(image.split == split for image in out):,} of {split}"
        for split in SPLITS
        if any(image.split == split for image in out)
    )
    crossing = counted(len({image.group for image in out}), "group")
    pair = f"{printable(out[0].path)} and {printable(last[out[0].group].path)}"
    left_out = {id(image) for image in out}
    return Apart(
        tuple(image for image in images if id(image) not in left_out),
        tuple(out),
        (f"{crossing} in more than one split (such as {pair}); images left out therefore: {from_splits}",),
    )


def group_numbers(images: Sequence[ImageRecord]) -> NDArray[np.int64] | None:
    """Return a number for each image, int64 [N], the same within a group; None if no two images are in one."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(image.group or f"\0{place}", len(numbers)) for place, image in enumerate(images)]
    return None if len(numbers) == len(images) else np.array(found, np.int64)
