"""Decides by names and contents whether the folders of a data set are classes, or splits with classes inside.

If splits were mistaken for classes, a model would learn to tell "training" from "testing", with a high accuracy and
without an error. So clear cases are accepted, and ambiguous ones are refused with the setting that decides them:
folders that all contain the same sub-folders, whatever their names (`left` and `right`, or dates, could be classes in
splits).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn, get_args

from cnn_tl.core.errors import DataError, printable
from cnn_tl.data.folders.find_images import contents_of, some_of
from cnn_tl.data.folders.folder_names import Role, is_filler, is_unlabelled, mentions_a_split, roles_of, splits_of
from cnn_tl.data.folders.wrapper_folders import DEPTH, innermost, unwrapped
from cnn_tl.data.manifest import Split

_FOUND = "the data lies in"


@dataclass(frozen=True)
class Arrangement:
    """Where the classes are.

    Attributes:
        place: the folder that contains the class folders, if there are no splits.
        splits: the folder of each split; empty if there are none.
        notes: warnings for the user.
    """

    place: Path
    splits: Mapping[Split, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """A folder and its direct contents.

    Attributes:
        inside: the names of its folders. images: whether it contains images directly.
    """

    path: Path
    inside: tuple[str, ...]
    images: bool

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def shown(self) -> str:
        """The folder as a pattern, such as `train/{cat, dog}`."""
        inside = "{" + some_of(self.inside, 3) + "}" if self.inside else "images"
        return f"{printable(self.name)}/{inside}"


def arrange(place: Path, root: Path | None = None, depth: int = DEPTH) -> Arrangement:
    """Decide what the folders in `place` are; there is at least one.

    Args:
        root: the folder that the user has given; by default `place`.

    Raises:
        DataError: they could be both classes and splits, or are neither; the message says what to do.
    """
    root = root or place
    seen = [_look(place / name) for name in contents_of(place)[0]]
    roles = roles_of([one.name for one in seen])
    full = [one for one in seen if one.inside or one.images]
    _refuse_images_beside_labels(place, seen, roles)
    unlabelled = [one for one in seen if is_unlabelled(one.name)]
    data = [one for one in full if roles.get(one.name) != "clutter" and one not in unlabelled]
    if len(data) == 1 and all(one in full or one in unlabelled or roles.get(one.name) == "clutter" for one in seen):
        [only] = data
        if not only.images and roles.get(only.name) not in get_args(Split):
            found = _inside(place, only, root, depth)
            return replace(found, notes=(*found.notes, *_left_out(only.name, unlabelled)))
    splits = {split: [one for one in seen if roles.get(one.name) == split] for split in get_args(Split)}
    if any(splits.values()):
        found = _with_splits(place, root, data, splits, roles)
        taken = {path.relative_to(place).parts[0] for path in found.splits.values()}
        beside = [one for one in seen if one.name not in taken]
        return replace(found, notes=_left_out("train", beside) if taken else ())
    _refuse_unlabelled(place, unlabelled, f"say that it is one: {_settings({'train': place}, root)}")
    return _without_splits(place, root, data, roles)


def refuse_annotated(folder: Path) -> None:
    """Refuse a folder with images beside their annotations, or beside unlabelled ones, instead of class folders.

    Raises:
        DataError: it is one.
    """
    seen = [_look(folder / name) for name in contents_of(folder)[0]]
    _refuse_images_beside_labels(folder, seen, roles_of([one.name for one in seen]))
    _refuse_unlabelled(folder, seen, "name the folder that holds the classes: --set data.train=FOLDER")


def _left_out(taken: str, beside: Sequence[_Seen]) -> tuple[str, ...]:
    names = some_of(one.name for one in beside)
    return (f"folders beside {printable(taken)}, left out: {names}",) if beside else ()


def _look(folder: Path) -> _Seen:
    inside, images = contents_of(folder)
    return _Seen(folder, tuple(inside), images)


def _inside(place: Path, only: _Seen, root: Path, depth: int) -> Arrangement:
    """Decide what is inside the only folder of `place`."""
    found = arrange(only.path, root, depth - 1) if depth else Arrangement(only.path)
    same = only.name.casefold()
    wraps = is_filler(only.name) or place.name.casefold() == same or [one.casefold() for one in only.inside] == [same]
    if found.splits or (wraps and len(contents_of(found.place)[0]) > 1):
        deeper = any(note.startswith(_FOUND) for note in found.notes)
        note = f"{_FOUND} {printable(os.path.relpath(only.path if found.splits else found.place, root))}"
        return found if deeper else replace(found, notes=(note, *found.notes))
    inner = innermost(found.place)
    names = contents_of(inner)[0]
    advice = f". It contains folders itself ({some_of(names)}); if these are the classes, give {printable(inner)}"
    raise DataError(
        f"{printable(place)} has only one class, {printable(only.name)}; a classifier needs at least two"
        + (advice if len(names) > 1 else "")
    )


def _with_splits(
    place: Path, root: Path, data: Sequence[_Seen], splits: Mapping[Split, list[_Seen]], roles: Mapping[str, Role]
) -> Arrangement:
    named = [one for found in splits.values() for one in found]
    free = [one for one in data if one.name not in roles]
    alike = _hold_the_same(data)
    train = [one for one in splits["train"] if one.inside]
    if free and not alike and (not train or len(named) == len(splits["train"])):
        return Arrangement(place)  # a train, a bus, a car
    if free and (not train or len(named) == len(splits["train"])):
        _refuse(place, root, data, roles)
    if not train:
        if len(data) == 1 and data[0].images:
            return Arrangement(place)
        if not splits["train"] and any(roles.get(one.name) == "unclear" and one.inside for one in data):
            _refuse(place, root, data, roles)
        _refuse_without_train(place, named, has_train=bool(splits["train"]))
    chosen = {split: found[0] for split, found in splits.items() if found}
    for split, found in splits.items():
        if len(found) > 1:
            names = " and ".join(printable(one.name) for one in found)
            raise DataError(
                f"{printable(place)} has both {names}, and each could be the {split} split; keep one of them, or name "
                f"those that you mean: {_settings(chosen, root)}"
            )
    unclear = [one for one in data if roles.get(one.name) == "unclear" and _hold_the_same([train[0], one])]
    if unclear and not splits["val"]:
        _refuse(place, root, data, roles)
    return Arrangement(place, {split: unwrapped(one.path) for split, one in chosen.items()})


def _without_splits(place: Path, root: Path, data: Sequence[_Seen], roles: Mapping[str, Role]) -> Arrangement:
    if len(data) < 2:
        return Arrangement(place)
    shared = _shared(data)
    if {"train"} < splits_of(shared) and not any(one.images for one in data):
        raise DataError(
            f"each folder of {printable(place)} holds splits ({', '.join(one.shown for one in data[:3])}); expected "
            "train/<class>/*.jpg: move them, or use the folders as classes and all their images: "
            f"{_settings({'train': place}, root)}"
        )
    alike = _hold_the_same(data)
    unclear = [one for one in data if roles.get(one.name) in ("unclear", "other")]
    if alike or (len(unclear) == len(data) and any(mentions_a_split(one.name) for one in data)):
        _refuse(place, root, data, roles)
    return Arrangement(place)


def _refuse_images_beside_labels(place: Path, seen: Sequence[_Seen], roles: Mapping[str, Role]) -> None:
    images = [one for one in seen if roles.get(one.name) == "images"]
    labels = [one for one in seen if roles.get(one.name) == "labels"]
    others = [one for one in seen if roles.get(one.name) in (None, *get_args(Split))]
    if not (images and labels) or any(one.inside or one.images for one in others):
        return
    sorted_in = [one for one in images if len(one.inside) > 1 and not one.images and not splits_of(one.inside)]
    what_now = f"give {printable(sorted_in[0].path)}" if sorted_in else "sort the images into a folder for each class"
    shown = " and ".join(printable(one.name) for one in (*images[:1], *labels[:1]))
    raise DataError(
        f"{printable(place)} holds {shown}, which are no classes: annotation files are not read; {what_now}"
    )


def _refuse_unlabelled(place: Path, seen: Sequence[_Seen], advice: str) -> None:
    for one in seen:
        if is_unlabelled(one.name):
            raise DataError(
                f"{printable(place)} holds {printable(one.name)}, which is no class by its name; move it to another "
                f"place, or {advice}"
            )


def _refuse_without_train(place: Path, named: Sequence[_Seen], *, has_train: bool) -> NoReturn:
    where, names = printable(place), some_of(one.name for one in named)
    if has_train:
        raise DataError(
            f"{names} found, but no class folders inside train; expected {where}/train/<class>/*.jpg (labels in a "
            "table are not read)"
        )
    raise DataError(f"{where} holds {names}, and no train split to learn from; expected {where}/train/<class>/*.jpg")


def _refuse(place: Path, root: Path, data: Sequence[_Seen], roles: Mapping[str, Role]) -> NoReturn:
    """Raise an error that shows the folders, and the settings that decide what they are."""
    names = {split: [one for one in data if roles.get(one.name) == split] for split in get_args(Split)}
    rest = [one for one in data if roles.get(one.name) not in get_args(Split)]
    guess: dict[Split, _Seen] = {split: found[0] for split, found in names.items() if found}
    for split in get_args(Split)[:2]:
        if split not in guess and rest:
            guess[split] = rest.pop(0)
    shown = ", ".join(one.shown for one in data[:3]) + (", ..." if len(data) > 3 else "")
    raise DataError(
        f"the folders of {printable(place)} could be splits or classes: {shown}; say which is which, such as "
        f"{_settings(guess, root)} (data.test is never trained on), or {_settings({'train': place}, root)} if they are "
        "the classes"
    )


def _settings(splits: Mapping[Split, _Seen | Path], root: Path) -> str:
    """Return the flags that name these folders."""
    paths = {split: one if isinstance(one, Path) else one.path for split, one in splits.items()}
    named = ((split, os.path.relpath(paths[split], root)) for split in get_args(Split) if split in paths)
    return " ".join(f"--set data.{split}={shlex.quote(printable(path))}" for split, path in named)


def _shared(data: Sequence[_Seen]) -> list[str]:
    """Return the names of the folders that all of them contain."""
    common = set.intersection(*({name.casefold() for name in one.inside} for one in data))
    return [name for name in data[0].inside if name.casefold() in common]


def _hold_the_same(data: Sequence[_Seen]) -> bool:
    """Return whether all contain roughly the same folders, and no images directly."""
    with_folders = [one for one in data if one.inside]
    if len(with_folders) < 2 or any(one.images for one in with_folders):
        return False
    return len(_shared(with_folders)) >= max(2, min(len(one.inside) for one in with_folders) / 2)
