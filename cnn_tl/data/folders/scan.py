"""`scan` turns a folder of images into a manifest, without changing, copying or decoding anything."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.text_encoding import portable
from cnn_tl.data.data_warnings import remarks
from cnn_tl.data.decoding.image import DEFAULT_LIMITS, ImageLimits
from cnn_tl.data.folders.examine import WAITING, Candidate, Progress, examine_all
from cnn_tl.data.folders.find_images import Walker
from cnn_tl.data.folders.layout import Layout, read_layout
from cnn_tl.data.manifest import SPLITS, ImageRecord, Manifest, SetAside, Split, refuse_mostly_broken
from cnn_tl.data.validation_split import split_off_val


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
        workers: threads that may read at the same time; 0: only this one; None: 32, or one for each core.
        splits: the folder of each split, relative to `root`, if the user has named them.

    Raises:
        DataError: the folder cannot be used; the message says why.
    """
    walker = Walker(root)
    layout = read_layout(walker, splits)
    candidates = list(_candidates(walker, layout))
    readers = max(WAITING, default_workers()) if workers is None else workers
    examined = examine_all(candidates, limits, readers, on_progress)
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
        aside = Counter(one.label for one, found in pairs if isinstance(found.entry, SetAside))
        images = split_off_val(images, layout.classes, val_fraction=val_fraction, seed=seed, broken=aside)
        images.sort(key=lambda image: SPLITS.index(image.split))
    classes = tuple(map(portable, layout.classes))
    manifest = Manifest(walker.root, classes, tuple(images), broken, (), layout.text, layout.splits)
    manifest.check()
    animated = sum(one.animated for one in examined)
    return replace(manifest, notes=(*layout.notes, *walker.notes(), *remarks(manifest, animated)))


def _candidates(walker: Walker, layout: Layout) -> Iterator[Candidate]:
    for folder in layout.folders:
        before = walker.left_out.copy()
        found = walker.images(folder.path)
        if not found and folder.split == "train":
            where, left_out = printable(folder.path), walker.left_out - before
            reasons = ", ".join(f"{what}: {count:,}" for what, count in left_out.items())
            raise DataError(
                f"class folder {where} has no image in it{f' ({reasons})' if reasons else ''}; add some or remove it"
            )
        before_name = len(str(folder.path)) + 1
        place = portable(folder.path.relative_to(walker.root).as_posix())
        for one in found:
            inside = one.name[before_name:].replace(os.sep, "/")
            yield Candidate(one.name, f"{place}/{portable(inside)}", folder.label, folder.split)
