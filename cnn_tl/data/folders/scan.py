"""`scan` turns a folder of images into a manifest, without changing, copying or decoding anything."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.core.text_encoding import portable
from cnn_tl.data.data_warnings import remarks
from cnn_tl.data.decoding.image import DEFAULT_LIMITS, ImageLimits
from cnn_tl.data.folders.correct import correct, unknown_names
from cnn_tl.data.folders.examine import WAITING, Candidate, Progress, examine_all
from cnn_tl.data.folders.find_images import Walker
from cnn_tl.data.folders.layout import Layout, read_layout
from cnn_tl.data.groups import grouped, groups_by_pattern, groups_in_file, keep_apart
from cnn_tl.data.manifest import SPLITS, Manifest, SetAside, Split, refuse_mostly_broken
from cnn_tl.data.validation_split import split_off_val

Groups = Path | str | Callable[[Manifest], Mapping[str, str]]
"""A CSV file, a regular expression, or a function from all images to image -> group."""


@dataclass(frozen=True)
class Corrections:
    """What the user has to say about the images of a folder.

    Attributes:
        exclude, relabel: files, see `cnn_tl.data.corrections`.
        groups: images that stay in one split, see `cnn_tl.data.groups`.
    """

    exclude: Path | None = None
    relabel: Path | None = None
    groups: Groups | None = None


NO_CORRECTIONS = Corrections()


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
    corrections: Corrections = NO_CORRECTIONS,
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
        corrections: what the user has to say about the images.

    Raises:
        DataError: the folder or a file of corrections cannot be used; the message says why.
    """
    walker = Walker(root)
    layout = read_layout(walker, splits)
    candidates = list(_candidates(walker, layout))
    readers = max(WAITING, default_workers()) if workers is None else workers
    examined = examine_all(candidates, limits, readers, on_progress)
    classes = tuple(map(portable, layout.classes))
    corrected = correct(
        [one.entry for one in examined], classes,
        exclude=corrections.exclude, relabel=corrections.relabel, root=walker.root,
    )  # fmt: skip
    broken = corrected.broken
    if on_bad_image == "fail":
        _refuse_broken(walker.root, broken)
    refuse_mostly_broken(walker.root, len(corrected.images), broken)
    manifest = Manifest(
        walker.root, classes, corrected.images, broken, (), layout.text, layout.splits, excluded=corrected.excluded
    )
    notes = [*layout.notes, *walker.notes(), *corrected.notes]
    if corrections.groups is not None:
        manifest = _grouped(manifest, corrections.groups, candidates, notes)
    if corrections != NO_CORRECTIONS:
        manifest.check_classes()
    if not layout.has_val:
        manifest = _with_val(manifest, candidates, val_fraction, seed)
    if manifest.relabelled() or not layout.has_val:
        manifest = _in_order(manifest)
    manifest.check()
    used = {image.path for image in manifest.images}
    animated = sum(one.animated for one in examined if one.entry.path in used)
    return replace(manifest, notes=(*notes, *remarks(manifest, animated, root)))


def _refuse_broken(root: Path, broken: Sequence[SetAside]) -> None:
    if broken:
        where = printable(root / broken[0].path)
        raise DataError(
            f"{where}: {broken[0].reason} ({len(broken):,} broken images in total); "
            "repair or remove it, or set data.on_bad_image to skip"
        )


def _in_order(manifest: Manifest) -> Manifest:
    """Return the manifest with its images by split and class again."""
    order = sorted(manifest.images, key=lambda image: (SPLITS.index(image.split), image.label))
    return replace(manifest, images=tuple(order))


def _grouped(manifest: Manifest, groups: Groups, candidates: Sequence[Candidate], notes: list[str]) -> Manifest:
    """Return the manifest with the groups of its images, none of which crosses splits; add notes about them."""
    if isinstance(groups, Path):
        named: Mapping[str, str] = groups_in_file(groups)
        notes += unknown_names(named, {one.path for one in candidates}, groups, manifest.root)
    elif isinstance(groups, str):
        named = groups_by_pattern(groups, {one.path: one.below_class for one in candidates})
    else:
        named = groups(manifest)
    apart = keep_apart(grouped(manifest.images, named))
    sizes = Counter(image.group for image in (*apart.images, *apart.kept_apart) if image.group)
    notes.append(f"images in groups, which cross no splits: {sizes.total():,} in {counted(len(sizes), 'group')}")
    notes += apart.notes
    return replace(manifest, images=apart.images, kept_apart=apart.kept_apart)


def _with_val(manifest: Manifest, candidates: Sequence[Candidate], val_fraction: float, seed: int) -> Manifest:
    """Return the manifest with a validation split that is chosen from the training images."""
    label_of = {one.path: one.label for one in candidates}
    aside = Counter(label_of[one.path] for one in manifest.set_aside)
    images = split_off_val(manifest.images, manifest.classes, val_fraction=val_fraction, seed=seed, broken=aside)
    return replace(manifest, images=tuple(images))


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
            below = portable(inside)
            yield Candidate(one.name, f"{place}/{below}", folder.label, folder.split, below)
