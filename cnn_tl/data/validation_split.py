"""Choosing a validation split: stratified, reproducible, independent of where the folder is."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.data.manifest import ImageRecord


def split_off_val(
    images: Sequence[ImageRecord],
    classes: Sequence[str],
    *,
    val_fraction: float,
    seed: int,
    broken: Mapping[int, int] | None = None,
) -> list[ImageRecord]:
    """Move about `val_fraction` of every class's training images to the validation split.

    Which ones depends only on the seed and on the images' contents. Equal images of a class stay together, so that none
    is both trained and validated on; images that are in two classes are never validated on.

    Args:
        broken: class number -> number of its images that were set aside; for the message.

    Raises:
        DataError: a class has fewer than two different training images; the message says where they are.
    """
    contents: list[set[str]] = [set() for _ in classes]
    for image in images:
        if image.split == "train":
            contents[image.label].add(image.sha256)
    counted = Counter(sha256 for class_contents in contents for sha256 in class_contents)
    contents = [{sha256 for sha256 in found if counted[sha256] == 1} for found in contents]
    for label, found in enumerate(contents):
        if len(found) < 2:
            _refuse(images, classes, label, (broken or {}).get(label, 0))
    chosen = {
        (label, sha256) for label in range(len(classes)) for sha256 in _choose(contents[label], val_fraction, seed)
    }
    return [
        replace(image, split="val") if image.split == "train" and (image.label, image.sha256) in chosen else image
        for image in images
    ]


def _choose(contents: set[str], val_fraction: float, seed: int) -> list[str]:
    count = min(max(round(len(contents) * val_fraction), 1), len(contents) - 1)
    return sorted(contents, key=lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).digest())[:count]


def _refuse(images: Sequence[ImageRecord], classes: Sequence[str], label: int, broken: int) -> NoReturn:
    """Raise an error that says why a class has no two images to split."""
    name = printable(classes[label])
    mine = [image for image in images if image.split == "train" and image.label == label]
    own = {image.sha256: image for image in reversed(mine)}
    twins = [(own[one.sha256], one) for one in images if one.split == "train" and one.label != label
             and one.sha256 in own]  # fmt: skip
    if twins:
        twin, other = twins[0]
        shared = len({one.sha256 for _, one in twins})
        how_many = "all" if shared == len(own) else f"{shared:,}"
        different = counted(len(own), "different image")
        raise DataError(
            f"class {name} has {different} to choose a validation split from, and {how_many} of them also in another "
            f"class, such as {printable(other.path)} in {printable(classes[other.label])}, a copy of "
            f"{printable(twin.path)}; remove the copies from the class where they are wrong"
        )
    if len(mine) > len(own):
        raise DataError(
            f"the {len(mine):,} images of class {name} are all copies of {printable(next(iter(own.values())).path)}; "
            "training and validation need different ones: add images"
        )
    aside = f" ({broken:,} more cannot be read)" if broken else ""
    raise DataError(
        f"class {name} has {'one usable image' if own else 'no usable image'}{aside}, and at least two are needed, one "
        "to train on and one to validate on; add images, or make train and val folders yourself"
    )
