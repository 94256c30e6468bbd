"""Series: frames of one film, photos of one patient or of one minute, which a random split tears apart.

Shapes: N images, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import counted, percent
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.groups import groups_by_pattern
from cnn_tl.doctor.attributes import seconds
from cnn_tl.doctor.collection import Collection

_SUBJECTS = "patient|subject|subj|participant|person|individual|speaker|actor|pat|sub"
NAMED = rf"(?i)(?:^|[^a-z])((?:{_SUBJECTS})[ _.-]?\d+)(?=/|[a-z_ .-][^/]*\.[^./]+$)"
"""Names that say whom they show; they need no further evidence, as one patient's images may look different."""

_NUMBERS = r"^(.*\d)\d\.[^.]+$", r"^(.*\d)\d\d\.[^.]+$"
"""Consecutive numbers, ten or a hundred together."""

_PATTERNS = (
    r"^(.+)/",
    r"^([^/]+)/",
    *(rf"^({before}[^_ -]*\d[^_ -]*)[_ -]" for before in ("", *(f"(?:[^_ -]+[_ -]+){{{n}}}" for n in (1, 2, 3)))),
    *(rf"^({before}[^_ -]+)[_ -]" for before in ("", *(f"(?:[^_ -]+[_ -]+){{{n}}}" for n in (1, 2)))),
    r"^(.+)\.\d+\.[^.]+$",
    r"^(.*\d)[a-z]\.[^.]+$",
    *_NUMBERS,
)
"""Tried on all other names: folders, the first words with and without a number, a last number after a dot, a letter
after a number, consecutive numbers. They count only if the images of a group are alike."""

ALIKE = 0.8
"""A group's images are alike if in this share of comparisons one resembles a mate more than another of its class."""

_FEWEST_GROUPS = 3
_LEAST_SHARE = 0.05
_LEAST_IMAGES = 6
_LARGEST = 0.5
"""A group with more of its class than this is no series but the class."""

_SECONDS = 10
_COMPARED = 5_000
_Z = 4.0

_SPREAD = 0.15
"""The least standard deviation of a group's share of comparisons, so that three alike are no proof."""


@dataclass(frozen=True)
class Series:
    """Images that belong together.

    Attributes:
        groups: the group of each image, -1 for an image alone in its group or in none, [N].
        names: of the groups.
        pattern: for `data.groups`; None if only the times of the photos tell the groups.
        crossing: groups with images in more than one split.
        alike: how often an image resembles a mate more than another image of its class, 0.5 by chance; NaN if no
            group could be compared.
        example: paths of two images of the largest group.
    """

    groups: NDArray[np.int64]
    names: tuple[str, ...]
    pattern: str | None
    crossing: int
    alike: float
    example: tuple[str, str]

    def sentence(self) -> str:
        """Return the finding in words."""
        images = counted(int((self.groups >= 0).sum()), "image")
        by = "by their names" if self.pattern else f"taken within {_SECONDS} seconds of each other"
        series = counted(len(self.names), "series", "series")
        words = f"{images} form {series} {by}, such as {' and '.join(map(printable, self.example))}."
        if self.alike >= ALIKE:
            words += f" An image resembles one of its series more than another of its class in {percent(self.alike, 0)}"
            words += " of comparisons."
        if self.pattern in _NUMBERS:
            words += " Numbers that follow each other go together; where a series begins, they do not tell."
        if self.crossing:
            words += f" {counted(self.crossing, 'series', 'series')} are in more than one split, so that"
            words += " a model is measured on what it almost knows."
        return words + " A random split tears series apart."


def find_series(collection: Collection) -> Series | None:
    """Return the series of a collection, by names, else by the times of the photos; None if there is no evidence."""
    labels, splits, files = collection.labels, collection.splits, collection.files
    folders = [image.label if image.given is None else image.given for image in collection.images]
    below = {path: below_class(path, collection.classes[label]) for path, label in zip(files, folders, strict=True)}
    found = series_by_names(collection.features, labels, splits, below)
    if found is not None:
        return found
    groups = _by_time(collection)
    alike, z = likeness(collection.features, labels, groups) if _enough(groups) else (np.nan, 0.0)
    if z < _Z or alike < ALIKE:
        return None
    return _series(groups, [f"time {number}" for number in range(int(groups.max()) + 1)], None, alike, splits, files)


def below_class(path: str, name: str) -> str:
    """Return the part of an image's path that lies below its class folder, as `data.groups` sees it."""
    parts = path.split("/")
    folders = [at for at, part in enumerate(parts[:-1]) if part == name]
    at = 1 if 1 in folders else folders[0] if folders else len(parts) - 2
    return "/".join(parts[at + 1 :])


def series_by_names(
    features: NDArray[np.float32], labels: NDArray[np.int64], splits: Sequence[str], below: Mapping[str, str]
) -> Series | None:
    """Return the series that names or sub-folders tell.

    Names that say what they are, such as patient_017_left.png, are believed. Any others count only if the features
    agree: plain numbers of random images are no series. Of several patterns, the one with the fewest groups is
    returned whose groups are nearly as alike as those of the best: too large a group costs little, too small a leak.

    Args:
        features: [N, D]. labels: [N]. splits: of each image. below: path -> its part below the class folder, in the
            order of the images.
    """
    files = list(below)
    named = _grouped(NAMED, labels, below)
    if named is not None:
        return _series(*named, NAMED, likeness(features, labels, named[0])[0], splits, files)
    candidates = []
    for pattern in _PATTERNS:
        made = _grouped(pattern, labels, below)
        alike, z = likeness(features, labels, made[0]) if made else (0.0, 0.0)
        if made and alike >= ALIKE and z >= _Z:
            candidates.append((alike, int((made[0] >= 0).sum()), len(made[1]), *made, pattern))
    if not candidates:
        return None
    best, most = max(one[0] for one in candidates), max(one[1] for one in candidates)
    good = [one for one in candidates if one[0] >= best - 0.1 and one[1] >= 0.8 * most]
    alike, _, _, groups, names, pattern = min(good or candidates, key=lambda one: one[2])
    return _series(groups, names, pattern, alike, splits, files)


def _grouped(
    pattern: str, labels: NDArray[np.int64], below: Mapping[str, str]
) -> tuple[NDArray[np.int64], list[str]] | None:
    """Return the group of each image, [N], and the groups' names; None if a pattern groups too few images."""
    try:
        named = groups_by_pattern(pattern, below)
    except DataError:
        return None
    numbers: dict[str, int] = {}
    all_groups = np.array([numbers.setdefault(named[path], len(numbers)) if path in named else -1 for path in below])
    groups, kept = _of_several(all_groups)
    if not _enough(groups) or _whole_classes(groups, labels):
        return None
    names = list(numbers)
    return groups, [names[number] for number in kept]


def _of_several(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
    """Return the groups of at least two images, numbered anew, and their old numbers."""
    sizes = np.bincount(groups[groups >= 0], minlength=1)
    kept = np.flatnonzero(sizes >= 2)
    new = np.full(len(sizes) + 1, -1)
    new[kept] = np.arange(len(kept))
    return new[groups], kept.tolist()  # -1 is the last


def _enough(groups: NDArray[np.int64]) -> bool:
    inside = int((groups >= 0).sum())
    several = int(groups.max(initial=-1)) + 1 >= _FEWEST_GROUPS
    return several and inside >= max(_LEAST_IMAGES, _LEAST_SHARE * len(groups))


def _whole_classes(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
    """Return whether most of the grouped images lie in a group that holds most of their class."""
    inside = groups >= 0
    pairs, which, sizes = np.unique(
        np.stack([groups[inside], labels[inside]]), axis=1, return_inverse=True, return_counts=True
    )
    class_sizes = np.bincount(labels)
    large = sizes > _LARGEST * class_sizes[pairs[1]]
    return bool(large[which.reshape(-1)].mean() > 0.5)


def likeness(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> tuple[float, float]:
    """Return how often an image resembles a mate of its group more than another image of its class.

    Both are drawn at random, the mate from the same class too, so that what a class has in common does not count.

    Returns:
        (the share averaged over the groups, 0.5 by chance; its distance from chance in standard errors, a group
        counting as one observation). NaN and 0 if no group has two images in a class that has others.
    """
    random = np.random.default_rng(seed_of(len(groups), "likeness of series"))
    cell_of = np.where(groups >= 0, groups * (int(labels.max(initial=0)) + 1) + labels, -1)
    members = {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}
    order = np.argsort(cell_of, kind="stable")
    _, starts, sizes = np.unique(cell_of[order], return_index=True, return_counts=True)
    chosen: list[tuple[int, int, int]] = []
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        cell = order[start : start + size]
        first = int(cell[0])
        pool = members[int(labels[first])]
        if cell_of[first] < 0 or size < 2 or len(pool) <= size:
            continue
        drawn = random.permutation(size)[: max(2, _COMPARED // len(starts))]
        for at in drawn.tolist():
            mate = cell[(at + 1 + int(random.integers(size - 1))) % size]
            others = pool[random.integers(len(pool), size=20)]
            others = others[groups[others] != groups[first]]
            if len(others):
                chosen.append((int(cell[at]), int(mate), int(others[0])))
    if not chosen:
        return float("nan"), 0.0
    image, mate, other = np.array(chosen).T
    wins = _cosines(features, image, mate) - _cosines(features, image, other)
    won = (wins > 0) + 0.5 * (wins == 0)
    _, which = np.unique(groups[image], return_inverse=True)
    shares = np.bincount(which, won) / np.bincount(which)
    error = max(float(shares.std()), _SPREAD) / np.sqrt(len(shares))
    return float(shares.mean()), float((shares.mean() - 0.5) / error)


def _cosines(features: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    one, other = (np.nan_to_num(features[index]) for index in (first, second))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(1) / np.maximum(lengths, 1e-12))


def _by_time(collection: Collection) -> NDArray[np.int64]:
    """Return groups of photos of one camera whose EXIF times follow each other within seconds, [N]."""
    times = np.array([seconds(header.taken) for header in collection.headers])
    groups = np.full(len(collection), -1)
    cameras = [header.camera or "" for header in collection.headers]
    dated = [index for index in np.argsort(times, kind="stable").tolist() if np.isfinite(times[index])]
    last: dict[str, int] = {}
    number = -1
    for index in dated:
        before = last.get(cameras[index])
        if before is not None and times[index] - times[before] <= _SECONDS:
            groups[index] = groups[before]
        else:
            number += 1
            groups[index] = number
        last[cameras[index]] = index
    return _of_several(groups)[0]


def _series(
    groups: NDArray[np.int64],
    names: Sequence[str],
    pattern: str | None,
    alike: float,
    splits: Sequence[str],
    files: Sequence[str],
) -> Series:
    in_splits: dict[int, set[str]] = {}
    for group, split in zip(groups.tolist(), splits, strict=True):
        in_splits.setdefault(group, set()).add(split)
    in_splits.pop(-1, None)
    largest = int(np.bincount(groups[groups >= 0]).argmax())
    first, second = np.flatnonzero(groups == largest)[:2].tolist()
    crossing = sum(len(each) > 1 for each in in_splits.values())
    return Series(groups, tuple(names), pattern, crossing, alike, (files[first], files[second]))
