"""Choosing a validation split: stratified, reproducible, independent of where the folder is."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.data.manifest import ImageRecord

_ATTEMPTS = 20
"""Orders in which blocks are tried, where blocks of several classes leave little choice."""


def split_off_val(
    images: Sequence[ImageRecord],
    classes: Sequence[str],
    *,
    val_fraction: float,
    seed: int,
    broken: Mapping[int, int] | None = None,
) -> list[ImageRecord]:
    """Move about `val_fraction` of every class's training images to the validation split.

    Which ones depends only on the seed, the images' contents and their groups. Groups, and equal images of a class,
    stay together, so that none is both trained and validated on; images that are in two classes, and with them their
    groups, are never validated on.

    Args:
        broken: class number -> number of its images that were set aside; for the message.

    Raises:
        DataError: a class has fewer than two different training images, or all of them in one group; or groups of
            several classes leave no choice. The message says where they are.
    """
    training = [image for image in images if image.split == "train"]
    blocks = [block for block in _blocks(training) if not block.conflicts]
    of_class = Counter(label for block in blocks for label in block.sizes)
    for label in range(len(classes)):
        if of_class[label] < 2:
            _refuse(training, classes, label, (broken or {}).get(label, 0))
    for attempt in range(_ATTEMPTS):
        choice = _Choice(blocks, val_fraction, f"{seed}:{attempt}" if attempt else str(seed))
        if choice.covers_all_classes():
            break
    else:
        raise DataError(
            "the groups of several classes leave no way to keep each whole and each class in both splits; add images, "
            "or make train and val folders yourself"
        )
    chosen = choice.best()
    return [
        replace(image, split="val") if image.split == "train" and _key(image) in chosen else image for image in images
    ]


def _key(image: ImageRecord) -> tuple[bool, str]:
    return (True, image.group) if image.group else (False, image.sha256)


@dataclass(frozen=True)
class _Block:
    """Images that stay in one split: a group, or copies of one image.

    Attributes:
        name: the smallest digest, which does not depend on where the images are.
        sizes: class -> number of different images.
        conflicts: whether an image is in two classes at once.
    """

    key: tuple[bool, str]
    name: str
    sizes: Mapping[int, int]
    conflicts: bool


def _blocks(training: Sequence[ImageRecord]) -> list[_Block]:
    contents: dict[tuple[bool, str], set[tuple[str, int]]] = defaultdict(set)
    for image in training:
        contents[_key(image)].add((image.sha256, image.label))
    return [_block(key, own) for key, own in contents.items()]


def _block(key: tuple[bool, str], contents: set[tuple[str, int]]) -> _Block:
    if len(contents) == 1:  # as nearly all are
        [(digest, label)] = contents
        return _Block(key, digest, {label: 1}, conflicts=False)
    sizes: dict[int, int] = {}
    for _, label in contents:
        sizes[label] = sizes.get(label, 0) + 1
    digests = {sha256 for sha256, _ in contents}
    return _Block(key, min(digests), sizes, conflicts=len(digests) < len(contents))


class _Choice:
    """Chooses blocks for validation, in an order that depends on `salt` and the images' contents."""

    def __init__(self, blocks: Sequence[_Block], val_fraction: float, salt: str) -> None:
        self._order = sorted(blocks, key=lambda one: hashlib.sha256(f"{salt}:{one.name}".encode()).digest())
        self._chosen: set[tuple[bool, str]] = set()
        self._images: Counter[int] = Counter()
        """Class -> its different images."""
        self._left: Counter[int] = Counter()
        """Class -> its blocks that are left for training."""
        for block in blocks:
            for label, size in block.sizes.items():
                self._images[label] += size
                self._left[label] += 1
        self._target = {
            label: min(max(round(images * val_fraction), 1), images - 1) for label, images in self._images.items()
        }
        self._val = dict.fromkeys(self._images, 0)
        self._val_blocks = dict.fromkeys(self._images, 0)

    def covers_all_classes(self) -> bool:
        """Choose a block of each class, the class with the fewest first; return whether that was possible."""
        by_class: dict[int, list[_Block]] = defaultdict(list)
        for block in self._order:
            for label in block.sizes:
                by_class[label].append(block)
        for label in sorted(by_class, key=lambda label: (len(by_class[label]), label)):
            if not self._val_blocks[label]:
                own = by_class[label]
                better = next((block for block in own if self._change(block, 1) < 0 and self._may_add(block)), None)
                free = [better] if better else [block for block in own if self._may_add(block)]
                if not free:
                    return False
                self._move(min(free, key=lambda block: self._change(block, 1)), 1)
        return True

    def best(self) -> set[tuple[bool, str]]:
        """Add and remove blocks as long as that brings the classes nearer to their targets; return the chosen ones."""
        changed = True
        while changed:
            changed = False
            for block in self._order:
                sign = -1 if block.key in self._chosen else 1
                if self._change(block, sign) < -1e-12 and (self._may_add(block) if sign > 0 else self._may_drop(block)):
                    self._move(block, sign)
                    changed = True
        return self._chosen

    def _change(self, block: _Block, sign: int) -> float:
        """Return how much further from their targets the classes would be, as the sum of shares of their images."""
        change = 0.0
        for label, size in block.sizes.items():
            surplus = self._val[label] - self._target[label]
            change += (abs(surplus + sign * size) - abs(surplus)) / self._images[label]
        return change

    def _may_add(self, block: _Block) -> bool:
        return all(self._left[label] > 1 for label in block.sizes)

    def _may_drop(self, block: _Block) -> bool:
        return all(self._val_blocks[label] > 1 for label in block.sizes)

    def _move(self, block: _Block, sign: int) -> None:
        (self._chosen.add if sign > 0 else self._chosen.discard)(block.key)
        for label, size in block.sizes.items():
            self._val[label] += sign * size
            self._val_blocks[label] += sign
            self._left[label] -= sign


def _refuse(training: Sequence[ImageRecord], classes: Sequence[str], label: int, broken: int) -> NoReturn:
    """Raise an error that says why a class has no two images to split."""
    name = printable(classes[label])
    mine = [image for image in training if image.label == label]
    own = {image.sha256: image for image in reversed(mine)}
    twins = [(own[one.sha256], one) for one in training if one.label != label and one.sha256 in own]
    if len(own) > 1 and len({_key(image) for image in mine}) == 1:
        raise DataError(
            f"the {len(mine):,} images of class {name} are all in one group ({printable(mine[0].group)}), which stays "
            "in one split; training and validation need different ones: add images, change data.groups, or make train "
            "and val folders yourself"
        )
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
