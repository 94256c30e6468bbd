"""The manifest: the images that a run uses, with their labels and splits, and whether they are still the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import ArtefactError, DataError, printable
from cnn_tl.core.files import sha256_file
from cnn_tl.core.formatting import counted
from cnn_tl.core.retries import retried
from cnn_tl.core.text_encoding import native

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


_RENAMED = {"picture_fields": "image_fields", "pictures": "images"}
"""Key in the manifest.json of older run folders -> today's key."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One usable image.

    Attributes:
        path: relative to the root, with forward slashes; decoded as UTF-8, whatever the locale.
        label: the index of its class in `Manifest.classes`.
        split: the split it belongs to.
        bytes, mtime_ns: size and modification time when it was scanned.
        sha256: of the file's bytes, in hexadecimal.
        group: the name of its group, which lies in one split; "" for an image that is in none.
        given: the index of the class of its folder, if `data.relabel` has changed its label.
    """

    path: str
    label: int
    split: Split
    bytes: int
    mtime_ns: int
    sha256: str
    group: str = ""
    given: int | None = None


_FIELDS = tuple(one.name for one in fields(ImageRecord))
_DEFAULTS = {one.name: one.default for one in fields(ImageRecord) if one.default is not MISSING}
"""Fields that manifest.json holds only where they say something."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """One image that is not used, and why."""

    path: str
    split: Split
    sha256: str
    reason: str
    group: str = ""


@dataclass(frozen=True)
class Manifest:
    """All images of a data folder.

    Attributes:
        root: the folder.
        classes: in natural order; the same for all splits.
        images: those that are used, ordered by split and class.
        set_aside: broken images.
        excluded: images that `data.exclude` names.
        kept_apart: images that are left out because their group has images in a later split, where test is the last.
        notes: warnings about the folder.
        layout: how the folder was interpreted, in words.
        splits: the folder of each split, relative to the root; empty if the data has none of its own.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    set_aside: tuple[SetAside, ...] = ()
    notes: tuple[str, ...] = ()
    layout: str = ""
    splits: Mapping[Split, str] = field(default_factory=dict)
    excluded: tuple[SetAside, ...] = ()
    kept_apart: tuple[ImageRecord, ...] = ()

    def of(self, split: Split) -> tuple[ImageRecord, ...]:
        """Return the images of one split."""
        return tuple(image for image in self.images if image.split == split)

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Return the labels of the images of one split, [N]."""
        return np.array([image.label for image in self.of(split)], dtype=np.int64)

    def file(self, image: ImageRecord) -> Path:
        """Return the path of an image's file."""
        return self.root / native(image.path)

    def counts(self) -> dict[str, dict[Split, int]]:
        """Return the number of usable images, `counts[class][split]`."""
        found = Counter((image.label, image.split) for image in self.images)
        return {name: {split: found[label, split] for split in SPLITS} for label, name in enumerate(self.classes)}

    def relabelled(self) -> tuple[ImageRecord, ...]:
        """Return the images whose label is not that of their folder."""
        return tuple(image for image in self.images if image.given is not None)

    def groups(self) -> dict[str, str]:
        """Return image -> group, also of images that are not used; images that are in none are left out."""
        entries: tuple[ImageRecord | SetAside, ...] = (*self.images, *self.kept_apart, *self.set_aside)
        return {entry.path: entry.group for entry in entries if entry.group}

    def largest_class(self) -> str:
        """Return the class with the most training images; in a tie, the first one."""
        counts_K = np.bincount(self.labels("train"), minlength=len(self.classes))
        return self.classes[int(counts_K.argmax())]

    def baseline_accuracy(self) -> float:
        """Return the validation accuracy of the majority-class baseline: always answering `largest_class`."""
        answer, val = self.classes.index(self.largest_class()), self.of("val")
        return sum(image.label == answer for image in val) / len(val)

    def digest(self) -> str:
        """Return a SHA-256 of all images with their classes and splits, wherever they lie and whatever their order."""
        lines = sorted(f"{one.sha256} {one.split} {self.classes[one.label]}\n" for one in self.images)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()

    def without(self, broken: Iterable[tuple[ImageRecord, str]]) -> Manifest:
        """Return a manifest in which images that could not be decoded are set aside, with their reasons."""
        reasons = dict(broken)
        return replace(
            self,
            images=tuple(image for image in self.images if image not in reasons),
            set_aside=(
                *self.set_aside,
                *(SetAside(p.path, p.split, p.sha256, reason, p.group) for p, reason in reasons.items()),
            ),
        )

    def check(self) -> None:
        """Check that enough images are usable.

        Raises:
            DataError: more than half of the images are broken, a class has no training image, or there are no
                validation images.
        """
        where = printable(self.root)
        refuse_mostly_broken(self.root, len(self.images) + len(self.kept_apart), self.set_aside)
        self.check_classes()
        if not self.of("val"):
            what_now = "add some, or remove its val folder" if "val" in self.splits else "add some"
            raise DataError(f"{where} has no usable validation image{self._why('val')}; {what_now}")

    def check_classes(self) -> None:
        """Check that every class has a training image.

        Raises:
            DataError: one has none; the message says what became of its images.
        """
        for label, (name, count) in enumerate(self.counts().items()):
            if not count["train"]:
                named, why = f"{printable(name)} in {printable(self.root)}", self._why("train", label)
                raise DataError(f"class {named} has no usable training image{why}; add some")

    def _why(self, split: Split, label: int | None = None) -> str:
        """Return for a message what became of the images of a split, or of one class in it; "" if there were none."""

        def counted_of(entries: Sequence[ImageRecord | SetAside], what: str) -> Iterator[str]:
            own = [one for one in entries if one.split == split]
            if label is not None:
                own = [one for one in own if self.classes[label] in one.path.split("/")[:-1]]
            if own:
                reason = f": {own[0].reason}" if isinstance(own[0], SetAside) else ""
                yield f"{len(own):,} {what}, such as {printable(own[0].path)}{reason}"

        moved = [image for image in self.images if label is not None and image.given == label]
        reasons = [
            *counted_of(self.set_aside, "cannot be read"),
            *counted_of(self.excluded, "left out"),
            *counted_of(self.kept_apart, "left out, as their groups have images in another split"),
            *counted_of(moved, "in another class by data.relabel"),
        ]
        return f" ({'; '.join(reasons)})" if reasons else ""

    def verify(self, image: ImageRecord) -> None:
        """Check that an image has not changed since the scan; its bytes are read only if the modification time differs.

        Raises:
            DataError: it was removed or changed.
        """
        verify_file(self.file(image), image)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; each image is a list of the values of its fields."""
        entries = (*self.images, *self.kept_apart)
        names = [name for name in _FIELDS if name not in _DEFAULTS or _is_used(name, entries)]
        values = attrgetter(*names)
        return {
            "root": str(self.root),
            "layout": self.layout,
            "splits": dict(self.splits),
            "classes": list(self.classes),
            "notes": list(self.notes),
            "set_aside": [asdict(broken) for broken in self.set_aside],
            "excluded": [asdict(left_out) for left_out in self.excluded],
            "image_fields": names,
            "images": [list(values(image)) for image in self.images],
            "kept_apart": [list(values(image)) for image in self.kept_apart],
        }

    @classmethod
    def from_json(cls, values: Any) -> Manifest:
        """Restore a manifest from what `to_json` returned.

        Raises:
            ArtefactError: something is missing or has an impossible value.
        """
        try:
            values = {_RENAMED.get(key, key): value for key, value in values.items()}
            names = values["image_fields"]

            def images(rows: Any) -> tuple[ImageRecord, ...]:
                return tuple(ImageRecord(**dict(zip(names, row, strict=True))) for row in rows)

            manifest = cls(
                root=Path(values["root"]),
                classes=tuple(_text(name) for name in values["classes"]),
                images=images(values["images"]),
                set_aside=tuple(SetAside(**broken) for broken in values["set_aside"]),
                excluded=tuple(SetAside(**left_out) for left_out in values.get("excluded", ())),
                kept_apart=images(values.get("kept_apart", ())),
                notes=tuple(_text(note) for note in values["notes"]),
                layout=_text(values["layout"]),
                splits={split: _text(name) for split, name in values.get("splits", {}).items() if split in SPLITS},
            )
            for image in (*manifest.images, *manifest.kept_apart):
                _check_image(image, len(manifest.classes))
            for unused in (*manifest.set_aside, *manifest.excluded):
                _check_file(unused)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ArtefactError(f"the manifest is damaged: {error}") from error
        return manifest


def verify_file(path: Path, image: ImageRecord) -> None:
    """Check that a file is the scanned one; its bytes are read only if the modification time differs.

    Raises:
        DataError: it was removed or changed.
    """
    try:
        now = retried(path.stat, path)
        same = now.st_size == image.bytes and (now.st_mtime_ns == image.mtime_ns or sha256_file(path) == image.sha256)
    except OSError as error:
        raise DataError(
            f"{printable(path)} was there at the start and cannot be read now ({error.strerror}); "
            "restore it, or start a new run"
        ) from error
    if not same:
        raise DataError(f"{printable(path)} changed since the run began; restore it, or start a new run")


def refuse_mostly_broken(root: Path, usable: int, broken: tuple[SetAside, ...]) -> None:
    """Refuse a folder with more broken than usable images, whatever `data.on_bad_image` is.

    Raises:
        DataError: it has more.
    """
    if len(broken) > usable:
        first = broken[0]
        raise DataError(
            f"{len(broken):,} of {counted(usable + len(broken), 'image')} in {printable(root)} cannot be read; "
            f"the first is {printable(first.path)}: {first.reason}"
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {value!r}")
    return value


def _is_used(name: str, images: Sequence[ImageRecord]) -> bool:
    default = _DEFAULTS[name]
    return any(value != default for value in map(attrgetter(name), images))


def _check_image(image: ImageRecord, classes: int) -> None:
    _check_file(image)
    labels = [image.label] if image.given is None else [image.label, image.given]
    for number in (*labels, image.bytes, image.mtime_ns):
        if type(number) is not int:
            raise TypeError(f"an integer expected, not {number!r}")
    for label in labels:
        if not 0 <= label < classes:
            raise ValueError(f"{image.path} has label {label} of {classes} classes")


def _check_file(entry: ImageRecord | SetAside) -> None:
    text = _text(entry.path)
    if text.startswith("/") or (".." in text and ".." in PurePosixPath(text).parts):
        raise ValueError(f"{text} leads out of the data folder")
    if entry.split not in SPLITS:
        raise ValueError(f"{text} is in no split")
    if len(_text(entry.sha256)) != 64:
        raise ValueError(f"{text} has no SHA-256")
    _text(entry.group)
