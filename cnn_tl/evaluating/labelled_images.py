"""Find labelled images for a trained model: by its classes, and without the images that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from cnn_tl.core import files
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.files import sha256_file
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.folders.find_images import Found, Walker, contents_of, is_folder, some_of
from cnn_tl.data.folders.layout import refuse_loose, refuse_non_folder
from cnn_tl.data.folders.wrapper_folders import splits_in
from cnn_tl.data.loader import thread_pool
from cnn_tl.data.manifest import Manifest, Split
from cnn_tl.training.run_folder import MANIFEST

_HELD_OUT: tuple[Split, ...] = ("test", "val")
"""Splits that were not trained on, the better first: val has chosen the best epoch, test has chosen nothing."""


@dataclass(frozen=True)
class Labelled:
    """Images with their classes.

    Attributes:
        root: the folder that was named.
        images: files, class by class, each with the index of its class.
        digests: their SHA-256 in hexadecimal; None where they were not needed.
        split: the split that they are from; None where the folder has none.
        trained_on: how many more images there were that the model was trained on; None where that is unknown.
        notes: remarks for the user.
    """

    root: Path
    images: tuple[tuple[Path, int], ...]
    digests: tuple[str, ...] | None
    split: Split | None
    trained_on: int | None
    notes: tuple[str, ...]

    def with_digests(self) -> Iterator[tuple[tuple[Path, int], str]]:
        """Yield each image and its digest, "" where it is unknown."""
        return zip(self.images, self.digests or [""] * len(self.images), strict=True)

    def name_of(self, path: Path) -> str:
        """Return how an image is named in tables and pages: relative to the folder, with forward slashes."""
        relative = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return relative.as_posix()


@dataclass(frozen=True)
class TrainingData:
    """What a model was trained on, from the manifest of its run.

    Attributes:
        sha256: the digests of its training images.
        splits: the folders of the splits, relative to the data; empty where the run has split the data itself.
        left_out: the digests of images that the run excluded, or kept apart from another split.
        labels: digest -> class of the images that the run relabelled.
    """

    sha256: frozenset[str]
    splits: Mapping[Split, str]
    left_out: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)


def training_data_of(source: Path) -> TrainingData | None:
    """Return what a model was trained on; None where there is no manifest.

    Args:
        source: the run folder, or the bundle or export inside it.
    """
    for folder in (source, source.parent):
        if (folder / MANIFEST).is_file():
            return _training_data(Manifest.from_json(files.read_json(folder / MANIFEST)))
    return None


def _training_data(manifest: Manifest) -> TrainingData:
    left_out = {one.sha256 for one in manifest.excluded} | {one.sha256 for one in manifest.kept_apart}
    used = {image.sha256 for image in manifest.images}  # a copy of an excluded image may be in use
    return TrainingData(
        sha256=frozenset(image.sha256 for image in manifest.of("train")),
        splits=dict(manifest.splits),
        left_out=frozenset(left_out - used),
        labels={image.sha256: manifest.classes[image.label] for image in manifest.relabelled()},
    )


def find_labelled(
    root: Path,
    classes: Sequence[str],
    *,
    split: str | None,
    training: TrainingData | None,
    limit: int | None,
    workers: int,
    digests: bool = False,
) -> Labelled:
    """Find labelled images below `root`: class folders, or such folders inside train, val and test.

    Args:
        classes: those of the model; a folder with another name is refused.
        split: train, val or test; None: test if there is one, else val, else everything.
        training: its images are left out, unless the split is train; None where they are unknown.
        limit: take at most this many images, in proportion from each class; which ones depends on their contents only.
        digests: return them too, even if nothing else needs them.

    Raises:
        DataError: there are no such images, or the model does not know their classes.
        UsageError: the folder has no such split.
    """
    walker = Walker(root)
    refuse_non_folder(walker.root)
    chosen, folders = _class_folders(walker, classes, split, training.splits if training else {})
    labels = {name: label for label, name in enumerate(classes)}
    _refuse_unknown_classes(root, folders, labels)
    found = [(one.path, labels[folder.path.name]) for folder in folders for one in walker.images(folder.path)]
    found.sort(key=lambda one: one[1])
    seen = training.sha256 if training is not None and chosen != "train" else None
    corrections: list[str] = []
    corrected = training is not None and bool(training.left_out or training.labels)
    kept, known, trained_on = found, None, 0
    if digests or corrected or seen is not None or (limit is not None and limit < len(found)):
        digested = list(zip(found, _digests([path for path, _ in found], workers), strict=True))
        if training is not None and corrected:
            digested, corrections = _corrected(digested, training, labels)
        kept, known, trained_on = _unseen(digested, seen, limit)
    if not kept:
        why = "the model was trained on all of them; name others, or --split train" if trained_on else "it holds none"
        raise DataError(f"no images to evaluate on in {printable(root)}: {why}")
    absent = sorted(set(range(len(classes))) - {label for _, label in kept})
    notes = [*corrections, *([f"no images of: {some_of(classes[label] for label in absent)}"] if absent else [])]
    return Labelled(
        walker.root, tuple(kept), known, chosen, None if seen is None else trained_on, (*walker.notes(), *notes)
    )


def _refuse_unknown_classes(root: Path, folders: Sequence[Found], labels: Mapping[str, int]) -> None:
    unknown = [folder.path.name for folder in folders if folder.path.name not in labels]
    if unknown:
        places = [folder.path for folder in folders if folder.path.name in unknown]
        inside = next((place for place in places if {*contents_of(place)[0]} & labels.keys()), None)
        hint = f"; its classes are folders in {printable(inside)}, so name that folder" if inside else ""
        raise DataError(
            f"{printable(root)} has classes that the model does not know: {some_of(unknown)}; it knows "
            f"{some_of(labels)}{hint}"
        )


def _class_folders(
    walker: Walker, classes: Sequence[str], split: str | None, named: Mapping[Split, str]
) -> tuple[Split | None, list[Found]]:
    """Return the split to evaluate and its class folders; the split is None where there are only classes."""
    folders = _folders(walker, walker.root)
    places = {name: walker.root / place for name, place in named.items() if place != "."}
    if not places or not all(is_folder(place) for place in places.values()):
        place, places = splits_in(walker.root, classes)
        folders = folders if place == walker.root else _folders(walker, place)
    if not places or any(one.path.name in classes for one in folders):
        if split is not None:
            raise UsageError(f"{printable(walker.root)} has no splits (train, val, test); leave --split out")
        return None, folders
    chosen = next((name for name in get_args(Split) if name == split), None)
    if chosen is None and split is not None:
        raise UsageError(f"{printable(walker.root)} has no split {split}; it has {some_of(places)}")
    if chosen is None:
        chosen = next((name for name in _HELD_OUT if name in places), None)
    if chosen is None:
        raise DataError(f"{printable(walker.root)} has neither test nor val; --split train takes the training images")
    if chosen not in places:
        raise UsageError(f"{printable(walker.root)} has no split {chosen}; it has {some_of(places)}")
    return chosen, _folders(walker, places[chosen])


def _folders(walker: Walker, place: Path) -> list[Found]:
    folders, loose = walker.look(place)
    refuse_loose(place, loose)
    if not folders:
        raise DataError(f"no class folders in {printable(place)}; expected {printable(place)}/<class>/*.jpg")
    return folders


Digested = list[tuple[tuple[Path, int], str]]
"""Images with their labels and SHA-256."""


def _unseen(
    found: Digested, seen: frozenset[str] | None, limit: int | None
) -> tuple[list[tuple[Path, int]], tuple[str, ...], int]:
    """Return at most `limit` images that are not in `seen`, their digests, and how many are in `seen`."""
    kept = [(one, digest) for one, digest in found if digest not in (seen or ())]
    trained_on = len(found) - len(kept)
    if limit is not None and limit < len(kept):
        kept = _share_of_each(kept, limit)
    return [one for one, _ in kept], tuple(digest for _, digest in kept), trained_on


def _corrected(found: Digested, training: TrainingData, labels: Mapping[str, int]) -> tuple[Digested, list[str]]:
    """Return the images without those that the run left out, with the labels that it changed, and notes about both."""
    kept: Digested = []
    left_out = relabelled = 0
    for (path, label), digest in found:
        if digest in training.left_out:
            left_out += 1
            continue
        now = labels.get(training.labels.get(digest, ""), label)
        relabelled += now != label
        kept.append(((path, now), digest))
    notes = [f"images that were left out of the training, and are left out here: {left_out:,}"] if left_out else []
    if relabelled:
        notes.append(f"images with the label that the training gave them: {relabelled:,}")
    return sorted(kept, key=lambda one: one[0][1]), notes


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


def _share_of_each(kept: Digested, limit: int) -> Digested:
    """Take `limit` images in proportion to the classes, by the lowest (k + 1/2) / n of the k-th of n in its class."""
    shuffled = sorted(range(len(kept)), key=lambda i: seed_of("evaluate", kept[i][1]))
    classes: dict[int, list[int]] = {}
    for i in shuffled:
        classes.setdefault(kept[i][0][1], []).append(i)
    places = [((k + 0.5) / len(members), i) for members in classes.values() for k, i in enumerate(members)]
    return [kept[i] for i in sorted(i for _, i in sorted(places)[:limit])]
