"""What there is to decide: the suspects that a doctor wrote into its folder, in order of harm, each image once."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cnn_tl.core.errors import ArtefactError, DataError, printable
from cnn_tl.core.files import read_json
from cnn_tl.core.formatting import counted
from cnn_tl.core.text_encoding import native
from cnn_tl.data.corrections import read_rows
from cnn_tl.doctor import outliers

KINDS = {
    "leaks": "Leaks",
    "conflicts": "Conflicts",
    "labels": "Labels",
    "twins": "Copies",
    "outliers": "Outliers",
}
"""Kind of a suspect -> its short title, the most harmful first; keys of the doctor's kinds."""

BESIDE = 4
"""Images of each class that are shown beside a suspect."""

_STAYING = ("test", "val", "train")
"""Splits, the one first whose copy of an image stays by default: evaluation is not to lose its images."""


@dataclass
class Image:
    """An image that a doctor's folder names.

    Attributes:
        path: relative to the data folder, with forward slashes.
        given, suggested: index of the class; None: unknown.
        probability: of the given class; None: unknown.
        split: "" if unknown. rank: its place in labels.csv, the most suspicious first.
        outlying: the kinds of outliers that it is.
    """

    path: str
    given: int | None = None
    suggested: int | None = None
    probability: float | None = None
    is_suspect: bool = False
    split: str = ""
    rank: int = 0
    outlying: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Suspect:
    """An image, or a group of twins, to decide about.

    Attributes:
        kind: a key of `KINDS`.
        images: indices into `Examined.images`.
        why: sentences. suggested: index of the class that relabelling proposes; None: there is none.
        marked: of a group, which of `images` (by place) are proposed for exclusion: all but one.
        beside: titles with the images to compare with.
    """

    kind: str
    images: tuple[int, ...]
    why: tuple[str, ...]
    suggested: int | None
    marked: tuple[int, ...] = ()
    beside: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class _Pair:
    """Twins: two images, how they differ, and the probability that they are twins."""

    a: int
    b: int
    kind: str
    score: float | None


@dataclass(frozen=True)
class Examined:
    """The folder of a doctor, read.

    Attributes:
        root: the data folder.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[Image, ...]
    suspects: tuple[Suspect, ...]

    def file(self, index: int) -> Path:
        """Return where an image lies."""
        return self.root / native(self.images[index].path)


def read(folder: Path) -> Examined:
    """Read what `cnn-tl doctor --output FOLDER` wrote; twins.csv, labels.csv and outliers.csv may be absent.

    Raises:
        ArtefactError: this is no such folder.
        DataError: one of the files is damaged, or the data folder is gone.
    """
    root, classes = _summary(folder)
    reader = _Reader(folder, classes)
    for number, row in reader.rows("labels.csv", "image", "given", "suggested", "probability", "suspect"):
        image = reader.image(row[0], number)
        image.given, image.suggested = (reader.label(name, number) for name in row[1:3])
        image.probability, image.is_suspect, image.rank = _number(row[3]), _is_true(row[4]), number
    pairs = []
    columns = ("image_a", "image_b", "split_a", "split_b", "kind", "score", "verified")
    for number, row in reader.rows("twins.csv", *columns):
        ends = [reader.image(path, number) for path in row[:2]]
        for image, split in zip(ends, row[2:4], strict=True):
            image.split = split
        if _is_true(row[6]) and row[0] != row[1]:
            pairs.append(_Pair(reader.places[row[0]], reader.places[row[1]], row[4], _number(row[5])))
    for number, row in reader.rows("outliers.csv", "image", "class", "kind"):
        image = reader.image(row[0], number)
        image.given = reader.label(row[1], number)
        image.outlying.append(row[2])
    neighbours: dict[str, list[int]] = defaultdict(list)
    for number, row in reader.rows("neighbours.csv", "image", "neighbour"):
        reader.image(row[1], number)
        neighbours[row[0]].append(reader.places[row[1]])
    return Examined(root, classes, tuple(reader.images), tuple(_Sorter(reader, classes, neighbours).suspects(pairs)))


def _summary(folder: Path) -> tuple[Path, tuple[str, ...]]:
    summary = folder / "summary.json"
    where = printable(folder)
    if not summary.is_file():
        raise ArtefactError(
            f"{where} holds no summary.json; name the folder that `cnn-tl doctor DATA --output FOLDER` wrote"
        )
    facts = read_json(summary)
    try:
        root, classes = Path(native(facts["data"]["root"])), tuple(facts["classes"])
        if not all(isinstance(name, str) for name in classes):
            raise TypeError
    except (TypeError, KeyError) as error:
        raise ArtefactError(
            f"{printable(summary)} names no data folder or no classes; run cnn-tl doctor again"
        ) from error
    if not root.is_dir():
        raise DataError(f"the images that {where} is about are gone: {printable(root)} is no folder any more")
    return root, classes


class _Reader:
    """The rows of the folder's files, and the images that they name."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self._folder = folder
        self._labels = {name: index for index, name in enumerate(classes)}
        self._file = folder
        self.images: list[Image] = []
        self.places: dict[str, int] = {}

    def rows(self, name: str, *columns: str) -> Iterator[tuple[int, tuple[str, ...]]]:
        self._file = self._folder / name
        return read_rows(self._file, columns) if self._file.exists() else iter(())

    def image(self, path: str, line: int) -> Image:
        """Return the image with a path, which must lie in the data folder."""
        if path not in self.places:
            place = Path(path)  # on Windows also with a drive or backslashes
            if not place.parts or place.anchor or ".." in place.parts or "\0" in path:
                raise DataError(f"{printable(self._file)}, line {line} names {printable(path)}, outside of the data")
            self.places[path] = len(self.images)
            self.images.append(Image(path))
        return self.images[self.places[path]]

    def label(self, name: str, line: int) -> int:
        if name not in self._labels:
            raise DataError(
                f"{printable(self._file)}, line {line} names the class {printable(name)}, which summary.json lacks"
            )
        return self._labels[name]


class _Sorter:
    """Makes suspects of images and pairs."""

    def __init__(self, reader: _Reader, classes: Sequence[str], neighbours: dict[str, list[int]]) -> None:
        self._images, self._classes, self._neighbours = reader.images, classes, neighbours
        self._typical = self._typical_images()

    def suspects(self, pairs: Sequence[_Pair]) -> Iterator[Suspect]:
        """Yield all suspects in order of harm; an image of a group of twins is shown with the group only."""
        groups = [self._group(*one) for one in _linked(pairs)]
        shown = {index for group in groups for index in group.images}
        alone = [index for index in range(len(self._images)) if index not in shown]
        labels = sorted((i for i in alone if self._images[i].is_suspect), key=lambda i: self._images[i].rank)
        others = [i for i in alone if self._images[i].outlying and not self._images[i].is_suspect]
        singles = [*(self._single("labels", i) for i in labels), *(self._single("outliers", i) for i in others)]
        order = list(KINDS)
        yield from sorted([*groups, *singles], key=lambda one: order.index(one.kind))

    def _single(self, kind: str, index: int) -> Suspect:
        image = self._images[index]
        why = [*self._doubts(image)]
        suggested = image.suggested if image.suggested != image.given else None
        beside = [(f"typical of {self._name(one)}", self._typical_of(one, index)) for one in (image.given, suggested)]
        near = tuple(self._neighbours.get(image.path, ()))[:BESIDE]
        if near:
            beside = [("nearest with another label", near), *beside]
        return Suspect(
            kind, (index,), tuple(why), suggested, beside=tuple((name, them) for name, them in beside if them)
        )

    def _group(self, members: Sequence[int], pairs: Sequence[_Pair]) -> Suspect:
        images = [self._images[index] for index in members]
        splits = {image.split for image in images if image.split}
        labels = Counter(image.given for image in images if image.given is not None)
        kind = "leaks" if len(splits) > 1 else "conflicts" if len(labels) > 1 else "twins"
        stays = min(range(len(images)), key=lambda place: _preference(images[place]))
        why = [self._group_sentence(len(images), splits, labels), _likeness(pairs)]
        for image in images:
            why += [f"{printable(image.path)}: {doubt}" for doubt in self._doubts(image)]
        proposals = Counter(image.suggested for image in images if image.is_suspect and image.suggested is not None)
        proposals.update({label: count for label, count in labels.items() if len(labels) > 1})
        if (given := images[stays].given) is not None:
            proposals.pop(given, None)
        suggested = proposals.most_common(1)[0][0] if proposals else None
        shown = (
            [one for one in (*labels, suggested) if one is not None] if len(labels) > 1 or suggested is not None else []
        )
        beside = [(f"typical of {self._name(one)}", self._typical_of(one, *members)) for one in dict.fromkeys(shown)]
        marked = tuple(place for place in range(len(images)) if place != stays)
        return Suspect(kind, tuple(members), tuple(why), suggested, marked, tuple(one for one in beside if one[1]))

    def _group_sentence(self, count: int, splits: set[str], labels: Counter[int]) -> str:
        places = []
        if len(splits) > 1:
            places.append(f"in {' and '.join(sorted(splits, reverse=True))}")
        if len(labels) > 1:
            named = sorted(self._name(label) for label in labels)
            more = f" and {len(named) - 4} more" if len(named) > 4 else ""
            places.append(f"in {counted(len(named), 'class', 'classes')} ({', '.join(named[:4])}{more})")
        return f"One image {', '.join(places) or 'in one split and one class'}: {counted(count, 'copy', 'copies')}."

    def _doubts(self, image: Image) -> Iterator[str]:
        if image.is_suspect:
            looks = "the label looks wrong"
            if image.suggested is not None and image.suggested != image.given:
                looks = f"looks like {self._name(image.suggested)}"
            sure = "" if image.probability is None else f" (probability {image.probability:.2f})"
            yield f"Labelled {self._name(image.given)}{sure}, {looks}."
        for kind in dict.fromkeys(image.outlying):
            yield outliers.KINDS.get(kind, f"Unlike the others: {printable(kind)}.")

    def _name(self, label: int | None) -> str:
        return "an unknown class" if label is None else printable(self._classes[label])

    def _typical_images(self) -> dict[int, list[int]]:
        """Return for each class the images whose labels are the least suspicious."""
        found: dict[int, list[int]] = defaultdict(list)
        for index in sorted(range(len(self._images)), key=lambda index: -self._images[index].rank):
            image = self._images[index]
            plain = image.rank and not image.is_suspect and not image.outlying
            if plain and image.given is not None and len(found[image.given]) < 2 * BESIDE:
                found[image.given].append(index)
        return found

    def _typical_of(self, label: int | None, *without: int) -> tuple[int, ...]:
        them = [] if label is None else self._typical.get(label, [])
        return tuple(index for index in them if index not in without)[:BESIDE]


def _preference(image: Image) -> tuple[int, bool, int]:
    """Return a key that is least for the copy that should stay."""
    split = _STAYING.index(image.split) if image.split in _STAYING else len(_STAYING)
    return split, image.is_suspect, -image.rank


def _likeness(pairs: Sequence[_Pair]) -> str:
    """Return in words how the images of a group differ, and how sure the least sure of its pairs is."""
    kinds = ", ".join(sorted({pair.kind for pair in pairs}))
    scores = [pair.score for pair in pairs if pair.score is not None]
    sure = f" (probability {min(scores):.2f})" if scores and min(scores) < 1 else ""
    return f"How alike: {kinds}{sure}."


def _linked(pairs: Sequence[_Pair]) -> list[tuple[list[int], list[_Pair]]]:
    """Return the groups that pairs form, in the order of their first pair: sorted images, and their pairs."""
    group_of: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    for number, pair in enumerate(pairs):
        ends = pair.a, pair.b
        joined = sorted({group_of[end] for end in ends if end in group_of}) or [number]
        kept = members.setdefault(joined[0], [])
        for other in joined[1:]:
            moved = members.pop(other)
            kept += moved
            group_of.update(dict.fromkeys(moved, joined[0]))
        for end in ends:
            if end not in group_of:
                group_of[end] = joined[0]
                kept.append(end)
    theirs: dict[int, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        theirs[group_of[pair.a]].append(pair)
    return [(sorted(members[number]), theirs[number]) for number in sorted(members)]


def _number(text: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(text)
    return None


def _is_true(text: str) -> bool:
    return text.casefold() in ("true", "1", "yes")
