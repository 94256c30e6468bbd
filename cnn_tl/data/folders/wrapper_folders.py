"""Folders that only wrap the data: each contains nothing but the next one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import get_args

from cnn_tl.core.errors import DataError, printable
from cnn_tl.data.folders.find_images import contents_of
from cnn_tl.data.folders.folder_names import is_filler, is_unlabelled, roles_of
from cnn_tl.data.manifest import Split

DEPTH = 4
"""The most folders that may wrap the data."""

_DEEPEST = 40
"""The most levels that are searched for the folder that an error message names; links can form a cycle."""


def unwrapped(folder: Path, depth: int = DEPTH) -> Path:
    """Return the folder with the classes of a split: itself, or the only folder in it, if that repeats its name.

    Raises:
        DataError: a folder cannot be read.
    """
    inside, images = contents_of(folder)
    if depth and len(inside) == 1 and not images:
        [only] = inside
        roles = roles_of([folder.name, only])
        same = roles.get(only) is not None and roles.get(only) == roles.get(folder.name)
        if same or only.casefold() == folder.name.casefold() or is_filler(only):
            return unwrapped(folder / only, depth - 1)
    return folder


def innermost(folder: Path) -> Path:
    """Return the first folder, from here on, that contains more than one other.

    Raises:
        DataError: a folder cannot be read.
    """
    for _ in range(_DEEPEST):
        inside, images = contents_of(folder)
        if len(inside) != 1 or images or not contents_of(folder / inside[0])[0]:
            break
        folder /= inside[0]
    return folder


def splits_in(place: Path, classes: Collection[str], depth: int = DEPTH) -> tuple[Path, dict[Split, Path]]:
    """Return the folder with known classes, or else with splits, and the folder of each split; `place` may wrap it.

    Raises:
        DataError: two folders could be the same split.
    """
    inside, images = contents_of(place)
    if any(name in classes for name in inside):
        return place, {}
    inside = [name for name in inside if not is_unlabelled(name)]
    roles = roles_of(inside)
    found: dict[Split, Path] = {}
    for split in get_args(Split):
        alike = [name for name in inside if roles.get(name) == split]
        alike = [name for name in alike if contents_of(place / name)[0]] or alike
        if len(alike) > 1:
            raise DataError(
                f"{printable(place)} has both {' and '.join(map(printable, alike))}, and each could be the {split} "
                f"split; give the right one: {printable(place / alike[0])}"
            )
        if alike:
            found[split] = unwrapped(place / alike[0])
    if not found and len(inside) == 1 and not images and depth:
        return splits_in(place / inside[0], classes, depth - 1)
    return place, found
