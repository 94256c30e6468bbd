"""Labelled images for a model that exists already: its classes are given, and what it was trained on is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cnn_tl.core import files
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.files import sha256_file
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.folders.layout import refuse_loose, refuse_non_folder
from cnn_tl.data.folders.walk import Found, Walker, contents_of, is_folder, some_of
from cnn_tl.data.folders.wrapping import splits_in
from cnn_tl.data.loader import thread_pool
from cnn_tl.data.manifest import Manifest, Split
from cnn_tl.training.run_folder import MANIFEST

_BEST_FIRST: tuple[Split, ...] = ("test", "val")
"""The parts that were not trained on; test was not even chosen by."""


@dataclass(frozen=True)
class Labelled:
    """Images and what they show.

    Attributes:
        images: files, class by class, each with the place of its class among the model's.
        part: the part of the data folder that they are; None where it has no parts.
        trained_on: how many more there were that the model has seen in training; None where that cannot be known.
        notes: remarks for the user.
    """

    images: tuple[tuple[Path, int], ...]
    part: Split | None
    trained_on: int | None
    notes: tuple[str, ...]


def find_labelled(
    root: Path,
    classes: Sequence[str],
    *,
    part: str | None,
    seen: frozenset[str] | None,
    limit: int | None,
    workers: int,
    named: Mapping[Split, str] | None = None,
) -> Labelled:
    """Find labelled images below `root`: class folders, or such folders inside train, val and test.

    Args:
        classes: the model's; a folder with another name is refused.
        part: which one is meant; None: test if there is one, else val, else all there is.
        seen: SHA-256 of the images that the model was trained on, which are left out unless the part train is
            asked for; None where that is not known.
        limit: at most so many images, of each class its share; which ones follows from their contents alone.
        named: the folders of the splits, relative to the data, where the model's own run has named them.

    Raises:
        DataError: no such images, or classes that the model does not know.
        UsageError: the folder has no such part.
    """
    walker = Walker(root)
    refuse_non_folder(walker.root)
    chosen, folders = _class_folders(walker, classes, part, named or {})
    labels = {name: label for label, name in enumerate(classes)}
    unknown = [folder.path.name for folder in folders if folder.path.name not in labels]
    if unknown:
        places = [folder.path for folder in folders if folder.path.name in unknown]
        inside = next((place for place in places if {*contents_of(place)[0]} & labels.keys()), None)
        hint = f"; its classes are folders in {printable(inside)}, so give that" if inside else ""
        raise DataError(
            f"{printable(root)} has classes that the model does not know: {some_of(unknown)}; it knows "
            f"{some_of(classes)}{hint}"
        )
    found = [(one.path, labels[folder.path.name]) for folder in folders for one in walker.images(folder.path)]
    found.sort(key=lambda one: one[1])
    kept, trained_on = _unseen(found, None if chosen == "train" else seen, limit, workers)
    if not kept:
        why = "the model was trained on all of them; give it others, or --part train" if trained_on else "none is there"
        raise DataError(f"no images to evaluate on in {printable(root)}: {why}")
    absent = sorted(set(range(len(classes))) - {label for _, label in kept})
    notes = [f"no images of: {some_of(classes[label] for label in absent)}"] if absent else []
    known = trained_on if seen is not None and chosen != "train" else None
    return Labelled(tuple(kept), chosen, known, (*walker.notes(), *notes))


def images_trained_on(source: Path) -> frozenset[str] | None:
    """Return the SHA-256 of each image that a run folder's model was trained on; None where no manifest tells.

    Args:
        source: the run folder, or the bundle or export inside it.
    """
    for folder in (source, source.parent):
        if (folder / MANIFEST).is_file():
            manifest = Manifest.from_json(files.read_json(folder / MANIFEST))
            return frozenset(image.sha256 for image in manifest.of("train"))
    return None


def splits_named_in(source: Path) -> dict[Split, str]:
    """Return the folders of the splits that a run was trained on, relative to its data; none where it had none.

    Args:
        source: as for `images_trained_on`.
    """
    for folder in (source, source.parent):
        if (folder / MANIFEST).is_file():
            return dict(Manifest.from_json(files.read_json(folder / MANIFEST)).splits)
    return {}


def _class_folders(
    walker: Walker, classes: Sequence[str], part: str | None, named: Mapping[Split, str]
) -> tuple[Split | None, list[Found]]:
    """Return the part that is taken and its class folders; no part where all folders are classes themselves."""
    folders = _folders(walker, walker.root)
    parts = {split: walker.root / place for split, place in named.items() if place != "."}
    if not parts or not all(is_folder(place) for place in parts.values()):
        place, parts = splits_in(walker.root, classes)
        folders = folders if place == walker.root else _folders(walker, place)
    if not parts or any(one.path.name in classes for one in folders):
        if part is not None:
            raise UsageError(f"{printable(walker.root)} has no parts (train, val, test), so leave --part out")
        return None, folders
    chosen = next((name for name in get_args(Split) if name == part), None)
    if chosen is None and part is not None:
        raise UsageError(f"{printable(walker.root)} has no part {part}; it has {some_of(parts)}")
    if chosen is None:
        chosen = next((name for name in _BEST_FIRST if name in parts), None)
    if chosen is None:
        raise DataError(f"{printable(walker.root)} has neither test nor val; name the part you mean: --part train")
    if chosen not in parts:
        raise UsageError(f"{printable(walker.root)} has no part {chosen}; it has {some_of(parts)}")
    return chosen, _folders(walker, parts[chosen])


def _folders(walker: Walker, place: Path) -> list[Found]:
    folders, loose = walker.look(place)
    refuse_loose(place, loose)
    if not folders:
        raise DataError(f"no class folders in {printable(place)}; expected {printable(place)}/<class>/*.jpg")
    return folders


def _unseen(
    found: Sequence[tuple[Path, int]], seen: frozenset[str] | None, limit: int | None, workers: int
) -> tuple[list[tuple[Path, int]], int]:
    """Return the images that are not in `seen`, no more than `limit`, and how many are."""
    if seen is None and (limit is None or limit >= len(found)):
        return list(found), 0
    digests = list(_digests([path for path, _ in found], workers))
    kept = [(one, digest) for one, digest in zip(found, digests, strict=True) if digest not in (seen or ())]
    trained_on = len(found) - len(kept)
    if limit is not None and limit < len(kept):
        kept = _share_of_each(kept, limit)
    return [one for one, _ in kept], trained_on


def _digests(paths: Sequence[Path], workers: int) -> Iterator[str]:
    def digest(path: Path) -> str:
        try:
            return sha256_file(path)
        except OSError as error:
            raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error

    pool = thread_pool(workers)
    try:
        yield from pool.map(digest, paths)
    finally:
        pool.shutdown(cancel_futures=True)


def _share_of_each(kept: list[tuple[tuple[Path, int], str]], limit: int) -> list[tuple[tuple[Path, int], str]]:
    """Take `limit` images, spread over the classes as all are: the k-th of n stands at (k + 1/2) / n of its class."""
    shuffled = sorted(range(len(kept)), key=lambda i: seed_of("evaluate", kept[i][1]))
    classes: dict[int, list[int]] = {}
    for i in shuffled:
        classes.setdefault(kept[i][0][1], []).append(i)
    places = [((k + 0.5) / len(members), i) for members in classes.values() for k, i in enumerate(members)]
    return [kept[i] for i in sorted(i for _, i in sorted(places)[:limit])]
