"""The layout of a data folder: class folders directly in it, or inside train, val and test."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import get_args

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.retries import retried
from cnn_tl.data.decoding.file_types import is_archive
from cnn_tl.data.folders.find_images import (
    NOWHERE,
    Found,
    Walker,
    contents_of,
    head_of,
    is_folder,
    natural_key,
    some_of,
)
from cnn_tl.data.folders.split_folders import Arrangement, arrange, refuse_annotated
from cnn_tl.data.manifest import Split


@dataclass(frozen=True)
class ClassFolder:
    """One folder with images of one class, in one split."""

    path: Path
    label: int
    split: Split


@dataclass(frozen=True)
class Layout:
    """The classes of a data folder in natural order, and where their images are.

    Attributes:
        classes: names; the index of a name is its label in every split.
        folders: ordered by split (train, val, test), then by class.
        text: the layout in words.
        notes: warnings for the user.
        splits: the folder of each split, relative to the root; empty if there are none.
    """

    classes: tuple[str, ...]
    folders: tuple[ClassFolder, ...]
    text: str
    notes: tuple[str, ...] = ()
    splits: Mapping[Split, str] = field(default_factory=dict)

    @property
    def has_val(self) -> bool:
        """Whether the folder has its own validation split."""
        return any(folder.split == "val" for folder in self.folders)


def read_layout(walker: Walker, given: Mapping[Split, str] | None = None) -> Layout:
    """Find the class folders below the walker's root.

    Args:
        given: the folders of the splits, relative to the root, if the user has named them; with `.` for train, all
            other folders are classes.

    Raises:
        DataError: there are none, or only one, or the layout is ambiguous.
    """
    root = walker.root
    refuse_non_folder(root)
    folders: list[Found] = []
    if given:
        arrangement = _given(root, given)
    else:
        folders, loose = walker.look(root)
        refuse_loose(root, loose)
        if not folders:
            where = printable(root)
            raise DataError(f"no class folders in {where}; expected {where}/<class>/*.jpg")
        _refuse_clashes(root, [folder.path.name for folder in folders])
        arrangement = arrange(root)
        if arrangement.splits:
            refuse_annotated(arrangement.splits["train"])
    if arrangement.splits:
        layout = _split_layout(walker, arrangement)
    else:
        layout = _flat_layout(folders if arrangement.place == root else _classes_in(walker, arrangement.place))
    if len(layout.classes) == 1:
        only, where = printable(layout.classes[0]), printable(layout.folders[0].path.parent)
        raise DataError(f"{where} has only one class, {only}; a classifier needs at least two")
    return replace(layout, notes=(*layout.notes, *arrangement.notes))


def _given(root: Path, given: Mapping[Split, str]) -> Arrangement:
    """Return the arrangement from the folders that the user has named."""
    splits: dict[Split, Path] = {split: root / given[split] for split in get_args(Split) if split in given}
    for split, place in splits.items():
        if not is_folder(place):
            inside = some_of(contents_of(root)[0])
            raise DataError(f"data.{split}: {printable(place)} is not a folder; {printable(root)} contains {inside}")
    for one, other in combinations(splits, 2):
        if splits[one].resolve() == splits[other].resolve():
            raise DataError(f"data.{one} and data.{other} are the same folder, {printable(splits[one])}; change one")
    return Arrangement(root, splits)


def _classes_in(walker: Walker, place: Path) -> list[Found]:
    folders, loose = walker.look(place)
    refuse_loose(place, loose)
    return folders


def _flat_layout(folders: Sequence[Found]) -> Layout:
    classes = tuple(folder.path.name for folder in folders)
    found = tuple(ClassFolder(folder.path, label, "train") for label, folder in enumerate(folders))
    return Layout(classes, found, "class folders; the validation split is chosen from them by the seed")


def _split_layout(walker: Walker, arrangement: Arrangement) -> Layout:
    inside: dict[Split, list[Path]] = {}
    splits, notes = arrangement.splits, []
    for split, place in splits.items():
        folders, loose = walker.look(place)
        if split == "test" and not folders:
            notes.append(f"images of {place.name} without a class, left out: {len(loose):,}")
            continue
        refuse_loose(place, loose)
        others = [other.resolve() for name, other in splits.items() if name != split]
        inside[split] = [folder.path for folder in folders if folder.path.resolve() not in others]
        if not inside[split]:
            where = printable(place)
            raise DataError(f"no class folders in {where}; expected {where}/<class>/*.jpg")
    _refuse_clashes(walker.root, {place.name for places in inside.values() for place in places})
    classes = tuple(place.name for place in inside["train"])
    for split, places in inside.items():
        unknown = [place.name for place in places if place.name not in classes]
        if unknown:
            where = printable(splits[split])
            raise DataError(
                f"{where} has classes that train lacks: {some_of(unknown)}; remove them, or add them to train"
            )
    labels = {name: label for label, name in enumerate(classes)}
    found = (ClassFolder(one, labels[one.name], split) for split, places in inside.items() for one in places)
    text = " + ".join(_shown(walker.root, splits[split], split) for split in inside)
    if "val" not in inside:
        text += "; the validation split is chosen from train by the seed"
    relative = {split: _relative(walker.root, splits[split]) for split in inside}
    return Layout(classes, tuple(found), text, tuple(notes), relative)


def _relative(root: Path, place: Path) -> str:
    return Path(os.path.relpath(place, root)).as_posix()


def _shown(root: Path, place: Path, split: Split) -> str:
    """Return the folder of a split for a message, and which split it is if its name does not say so."""
    name = _relative(root, place)
    if name == ".":
        return "class folders"
    return name if name.casefold() in (split, "valid", "validation") else f"{name} ({split})"


def refuse_non_folder(root: Path) -> None:
    """Refuse a path that is not a folder, or cannot be read.

    Raises:
        DataError: it is not one, or cannot be read.
    """
    where = printable(root)
    try:
        if stat.S_ISDIR(retried(root.stat, root).st_mode):
            return
        head = head_of(root)
    except OSError as error:
        if error.errno in NOWHERE:
            raise DataError(f"{where} does not exist") from error
        raise DataError(f"{where} cannot be read: {error.strerror}") from error
    if is_archive(head):
        raise DataError(f"{where} is an archive; unpack it first, and give the folder")
    raise DataError(f"{where} is a file; expected a folder with class folders in it")


def refuse_loose(folder: Path, loose: list[Found]) -> None:
    """Refuse images beside the class folders.

    Raises:
        DataError: there are some.
    """
    if loose:
        where = printable(folder)
        names = some_of(image.path.name for image in loose)
        raise DataError(
            f"images directly in {where} have no class ({len(loose):,}: {names}); move them into {where}/<class>/"
        )


def _refuse_clashes(root: Path, names: list[str] | set[str]) -> None:
    """Refuse names that some file systems, or people, cannot distinguish."""
    first: dict[str, str] = {}
    for name in sorted(names, key=natural_key):
        other = first.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise DataError(
                f"{printable(root)} has folders that differ only by case or Unicode form: "
                f"{other!a} and {name!a}; rename or merge them"
            )
