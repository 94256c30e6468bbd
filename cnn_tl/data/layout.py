"""How a data folder is laid out: class folders directly in it, or inside train, val and test."""

from __future__ import annotations

import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from cnn_tl.data.kinds import is_archive
from cnn_tl.data.manifest import Split
from cnn_tl.data.walk import NOWHERE, Found, Walker, has_folders, head_of, natural_key, some_of
from cnn_tl.errors import DataError, printable
from cnn_tl.transient import retried

_VAL_NAMES = ("val", "valid", "validation")
PART_NAMES: dict[str, Split] = {"train": "train", **dict.fromkeys(_VAL_NAMES, "val"), "test": "test"}
"""What the folder of a part may be called -> the part."""


@dataclass(frozen=True)
class ClassFolder:
    """One folder of pictures of one class, in one part."""

    path: Path
    label: int
    split: Split


@dataclass(frozen=True)
class Layout:
    """The classes of a data folder in natural order, and where their pictures are.

    Attributes:
        classes: names; the place of a name is its label in every part.
        folders: in the order train, val, test, and of the classes within each.
        text: the layout in words.
        notes: remarks for the user.
    """

    classes: tuple[str, ...]
    folders: tuple[ClassFolder, ...]
    text: str
    notes: tuple[str, ...] = ()

    @property
    def has_val(self) -> bool:
        """Tell whether the folder brings its own validation part."""
        return any(folder.split == "val" for folder in self.folders)


def read_layout(walker: Walker) -> Layout:
    """Find the class folders below the walker's root.

    Raises:
        DataError: there are none, or one only, or it is not clear what the folder means.
    """
    root = walker.root
    refuse_non_folder(root)
    folders, loose = walker.look(root)
    refuse_loose(root, loose)
    if not folders:
        where = printable(root)
        raise DataError(f"no class folders in {where}; expected {where}/<class>/*.jpg")
    _refuse_clashes(root, [folder.path.name for folder in folders])
    parts = _parts(root, [folder.path for folder in folders])
    layout = _split_layout(walker, parts) if parts else _flat_layout([folder.path for folder in folders])
    if len(layout.classes) == 1:
        only = printable(layout.classes[0])
        raise DataError(f"{printable(root)} has one class only, {only}; a classifier needs at least two")
    beside = [folder.path.name for folder in folders if parts and folder.path not in parts.values()]
    notes = [f"folders beside train, left out: {some_of(beside)}"] if beside else []
    return Layout(layout.classes, layout.folders, layout.text, (*layout.notes, *notes))


def _parts(root: Path, folders: list[Path]) -> dict[Split, Path]:
    """Return the folders of train, val and test; none where all are classes (even "train")."""
    named = {path.name.casefold(): path for path in folders}
    vals = [name for name in _VAL_NAMES if name in named]
    only_parts = named.keys() <= PART_NAMES.keys()
    if "train" not in named or not has_folders(named["train"]):
        if only_parts and len(named) > 1:
            where = f"{printable(root)}/train/<class>/*.jpg"
            raise DataError(f"{some_of(named)} found, but no class folders inside train; expected {where}")
        return {}
    if len(vals) > 1:
        raise DataError(f"{printable(root)} has both {' and '.join(vals)}; keep one of them")
    if not vals and not only_parts:
        return {}
    return {part: named[name] for name, part in PART_NAMES.items() if name in named}


def _flat_layout(folders: list[Path]) -> Layout:
    classes = tuple(folder.name for folder in folders)
    found = tuple(ClassFolder(folder, label, "train") for label, folder in enumerate(folders))
    return Layout(classes, found, "class folders; the validation part is chosen from them by the seed")


def _split_layout(walker: Walker, parts: dict[Split, Path]) -> Layout:
    inside: dict[Split, list[Path]] = {}
    notes = []
    for part, place in parts.items():
        folders, loose = walker.look(place)
        if part == "test" and not folders:
            notes.append(f"pictures of {place.name} without a class, left out: {len(loose):,}")
            continue
        refuse_loose(place, loose)
        if not folders:
            where = printable(place)
            raise DataError(f"no class folders in {where}; expected {where}/<class>/*.jpg")
        inside[part] = [folder.path for folder in folders]
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
    text = " + ".join(parts[part].name for part in inside)
    if "val" not in inside:
        text += "; the validation part is chosen from train by the seed"
    return Layout(classes, tuple(found), text, tuple(notes))


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
    """Refuse pictures that lie beside the class folders rather than in one."""
    if loose:
        where = printable(folder)
        names = some_of(picture.path.name for picture in loose)
        raise DataError(
            f"pictures directly in {where} have no class ({len(loose):,}: {names}); "
            f"move them into {where}/<class>/"
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
