"""How a data folder is laid out: class folders directly in it, or inside train, val and test."""

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
from cnn_tl.data.folders.splits import Arrangement, arrange, refuse_annotated
from cnn_tl.data.folders.walk import NOWHERE, Found, Walker, contents_of, head_of, is_folder, natural_key, some_of
from cnn_tl.data.manifest import Split


@dataclass(frozen=True)
class ClassFolder:
    """One folder of images of one class, in one part."""

    path: Path
    label: int
    split: Split


@dataclass(frozen=True)
class Layout:
    """The classes of a data folder in natural order, and where their images are.

    Attributes:
        classes: names; the place of a name is its label in every part.
        folders: in the order train, val, test, and of the classes within each.
        text: the layout in words.
        notes: remarks for the user.
        splits: the folder of each split, relative to the root; empty where the folder has none.
    """

    classes: tuple[str, ...]
    folders: tuple[ClassFolder, ...]
    text: str
    notes: tuple[str, ...] = ()
    splits: Mapping[Split, str] = field(default_factory=dict)

    @property
    def has_val(self) -> bool:
        """Tell whether the folder brings its own validation part."""
        return any(folder.split == "val" for folder in self.folders)


def read_layout(walker: Walker, given: Mapping[Split, str] | None = None) -> Layout:
    """Find the class folders below the walker's root.

    Args:
        given: the folders of the splits, relative to the root, where the user has named them; with `.` for train, all
            other folders are classes.

    Raises:
        DataError: there are none, or one only, or it is not clear what the folder means.
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
        raise DataError(f"{where} has one class only, {only}; a classifier needs at least two")
    return replace(layout, notes=(*layout.notes, *arrangement.notes))


def _given(root: Path, given: Mapping[Split, str]) -> Arrangement:
    """Return the arrangement that the user has named."""
    splits: dict[Split, Path] = {split: root / given[split] for split in get_args(Split) if split in given}
    for split, place in splits.items():
        if not is_folder(place):
            inside = some_of(contents_of(root)[0])
            raise DataError(f"data.{split}: {printable(place)} is no folder; {printable(root)} holds {inside}")
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
    parts, notes = arrangement.splits, []
    for part, place in parts.items():
        folders, loose = walker.look(place)
        if part == "test" and not folders:
            notes.append(f"images of {place.name} without a class, left out: {len(loose):,}")
            continue
        refuse_loose(place, loose)
        others = [other.resolve() for name, other in parts.items() if name != part]
        inside[part] = [folder.path for folder in folders if folder.path.resolve() not in others]
        if not inside[part]:
            where = printable(place)
            raise DataError(f"no class folders in {where}; expected {where}/<class>/*.jpg")
    _refuse_clashes(walker.root, {place.name for places in inside.values() for place in places})
    classes = tuple(place.name for place in inside["train"])
    for part, places in inside.items():
        unknown = [place.name for place in places if place.name not in classes]
        if unknown:
            where = printable(parts[part])
            raise DataError(
                f"{where} has classes that train lacks: {some_of(unknown)}; remove them, or add them to train"
            )
    labels = {name: label for label, name in enumerate(classes)}
    found = (ClassFolder(one, labels[one.name], part) for part, places in inside.items() for one in places)
    text = " + ".join(_shown(walker.root, parts[part], part) for part in inside)
    if "val" not in inside:
        text += "; the validation split is chosen from train by the seed"
    relative = {part: _relative(walker.root, parts[part]) for part in inside}
    return Layout(classes, tuple(found), text, tuple(notes), relative)


def _relative(root: Path, place: Path) -> str:
    return Path(os.path.relpath(place, root)).as_posix()


def _shown(root: Path, place: Path, part: Split) -> str:
    """Return the folder of a split, and which one it is where its name does not tell."""
    name = _relative(root, place)
    if name == ".":
        return "class folders"
    return name if name.casefold() in (part, "valid", "validation") else f"{name} ({part})"


def refuse_non_folder(root: Path) -> None:
    """Refuse what is no folder, or cannot be read."""
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
    """Refuse images that lie beside the class folders rather than in one."""
    if loose:
        where = printable(folder)
        names = some_of(image.path.name for image in loose)
        raise DataError(
            f"images directly in {where} have no class ({len(loose):,}: {names}); move them into {where}/<class>/"
        )


def _refuse_clashes(root: Path, names: list[str] | set[str]) -> None:
    """Refuse names that some file systems, or people, cannot tell apart."""
    first: dict[str, str] = {}
    for name in sorted(names, key=natural_key):
        other = first.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise DataError(
                f"{printable(root)} has folders that differ by case or Unicode form only: "
                f"{other!a} and {name!a}; rename or merge them"
            )
