"""Choosing a validation part: stratified, reproducible, the same wherever the folder lies."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from cnn_tl.data.manifest import Picture
from cnn_tl.errors import DataError, printable


def split_off_val(
    pictures: Sequence[Picture], classes: Sequence[str], *, val_fraction: float, seed: int
) -> list[Picture]:
    """Move about `val_fraction` of every class's training pictures to the validation part.

    Which ones depends on the seed and on the pictures' contents alone; equal pictures of a class stay
    together, so that none is trained on and validated on; those that lie in two classes are never validated on.

    Raises:
        DataError: a class has fewer than two different training pictures.
    """
    contents: list[set[str]] = [set() for _ in classes]
    for picture in pictures:
        if picture.split == "train":
            contents[picture.label].add(picture.sha256)
    counted = Counter(sha256 for class_contents in contents for sha256 in class_contents)
    contents = [{sha256 for sha256 in found if counted[sha256] == 1} for found in contents]
    chosen = {
        (label, sha256)
        for label, name in enumerate(classes)
        for sha256 in _choose(contents[label], name, val_fraction, seed)
    }
    return [
        replace(picture, split="val")
        if picture.split == "train" and (picture.label, picture.sha256) in chosen
        else picture
        for picture in pictures
    ]


def _choose(contents: set[str], name: str, val_fraction: float, seed: int) -> list[str]:
    if len(contents) < 2:
        raise DataError(
            f"class {printable(name)} has too few usable pictures to choose a validation part from "
            f"({len(contents)}, copies count once); add pictures, or make train and val folders yourself"
        )
    count = min(max(round(len(contents) * val_fraction), 1), len(contents) - 1)
    return sorted(contents, key=lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).digest())[:count]
