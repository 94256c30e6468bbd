"""`scan` turns a folder of images into a manifest, without changing, copying or decoding anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import BadImageError, DataError, printable
from cnn_tl.core.files import sha256_file
from cnn_tl.core.text_encoding import portable
from cnn_tl.data.data_warnings import remarks
from cnn_tl.data.decoding.image import DEFAULT_LIMITS, ImageLimits, probe
from cnn_tl.data.folders.find_images import Found, Walker
from cnn_tl.data.folders.layout import ClassFolder, Layout, read_layout
from cnn_tl.data.loader import thread_pool
from cnn_tl.data.manifest import SPLITS, ImageRecord, Manifest, SetAside, Split, refuse_mostly_broken
from cnn_tl.data.validation_split import split_off_val

_CHUNK = 64

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file that claims to be an image, and what is known about it without opening it."""

    path: str
    folder: ClassFolder
    found: Found


@dataclass(frozen=True, slots=True)
class _Examined:
    """The result of reading a candidate's header and checksum."""

    entry: ImageRecord | SetAside
    animated: bool = False


def scan(
    root: Path,
    *,
    seed: int,
    val_fraction: float,
    limits: ImageLimits = DEFAULT_LIMITS,
    on_bad_image: Literal["skip", "fail"] = "skip",
    on_progress: Progress | None = None,
    workers: int | None = None,
    splits: Mapping[Split, str] | None = None,
) -> Manifest:
    """Find the classes and images below `root`; read every header and checksum, and decode nothing.

    Args:
        root: contains class folders, or train, val (valid, validation) and test with class folders in them.
        seed: chooses the validation split if the folder has none.
        val_fraction: the share of each class that goes to that split, between 0 and 1.
        limits: the accepted image sizes.
        on_bad_image: set broken images aside, or refuse the folder.
        on_progress: called in this thread with the number of images done and of all.
        workers: threads; 0: only this one; None: as many as there are cores.
        splits: the folder of each split, relative to `root`, if the user has named them.

    Raises:
        DataError: the folder cannot be used; the message says why.
    """
    walker = Walker(root)
    layout = read_layout(walker, splits)
    candidates = list(_candidates(walker, layout))
    examined = list(_examine_all(candidates, limits, on_progress, workers))
    images = [one.entry for one in examined if isinstance(one.entry, ImageRecord)]
    broken = tuple(one.entry for one in examined if isinstance(one.entry, SetAside))
    if broken and on_bad_image == "fail":
        where = printable(walker.root / broken[0].path)
        raise DataError(
            f"{where}: {broken[0].reason} ({len(broken):,} broken images in total); "
            "repair or remove it, or set data.on_bad_image to skip"
        )
    refuse_mostly_broken(walker.root, len(images), broken)
    if not layout.has_val:
        pairs = zip(candidates, examined, strict=True)
        aside = Counter(one.folder.label for one, found in pairs if isinstance(found.entry, SetAside))
        images = split_off_val(images, layout.classes, val_fraction=val_fraction, seed=seed, broken=aside)
        images.sort(key=lambda image: SPLITS.index(image.split))
    classes = tuple(map(portable, layout.classes))
    manifest = Manifest(walker.root, classes, tuple(images), broken, (), layout.text, layout.splits)
    manifest.check()
    animated = sum(one.animated for one in examined)
    return replace(manifest, notes=(*layout.notes, *walker.notes(), *remarks(manifest, animated)))


def _candidates(walker: Walker, layout: Layout) -> Iterator[_Candidate]:
    for folder in layout.folders:
        before = walker.left_out.copy()
        found = walker.images(folder.path)
        if not found and folder.split == "train":
            where, left_out = printable(folder.path), walker.left_out - before
            reasons = ", ".join(f"{what}: {count:,}" for what, count in left_out.items())
            raise DataError(
                f"class folder {where} has no image in it{f' ({reasons})' if reasons else ''}; add some or remove it"
            )
        for one in found:
            yield _Candidate(one.path.relative_to(walker.root).as_posix(), folder, one)


def _examine_all(
    candidates: Sequence[_Candidate], limits: ImageLimits, on_progress: Progress | None, workers: int | None
) -> Iterator[_Examined]:
    pool = thread_pool(default_workers() if workers is None else workers)
    try:
        for start in range(0, len(candidates), _CHUNK):
            chunk = candidates[start : start + _CHUNK]
            yield from pool.map(lambda candidate: _examine(candidate, limits), chunk)
            if on_progress is not None:
                on_progress(start + len(chunk), len(candidates))
    finally:
        pool.shutdown(cancel_futures=True)


def _examine(candidate: _Candidate, limits: ImageLimits) -> _Examined:
    path, facts = candidate.found.path, candidate.found.facts
    name, label, split = portable(candidate.path), candidate.folder.label, candidate.folder.split
    try:
        sha256 = sha256_file(path)
    except OSError as error:
        raise DataError(f"{printable(path)} cannot be read: {error.strerror}") from error
    try:
        animated = probe(path, limits).animated
    except BadImageError as error:
        return _Examined(SetAside(name, split, sha256, error.reason))
    return _Examined(ImageRecord(name, label, split, facts.st_size, facts.st_mtime_ns, sha256), animated)
