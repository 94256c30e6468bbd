"""The manifest: the images that a run uses, with their labels and splits, and whether they are still the same."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
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
    """

    path: str
    label: int
    split: Split
    bytes: int
    mtime_ns: int
    sha256: str


_FIELDS = tuple(one.name for one in fields(ImageRecord))
_values = attrgetter(*_FIELDS)


@dataclass(frozen=True, slots=True)
class SetAside:
    """One broken image that is not used, and why."""

    path: str
    split: Split
    sha256: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """All images of a data folder.

    Attributes:
        root: the folder.
        classes: in natural order; the same for all splits.
        images: those that are used, ordered by split and class.
        set_aside: broken images.
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
                *(SetAside(p.path, p.split, p.sha256, reason) for p, reason in reasons.items()),
            ),
        )

    def check(self) -> None:
        """Check that enough images are usable.

        Raises:
            DataError: more than half of the images are broken, a class has no training image, or there are no
                validation images.
        """
        where = printable(self.root)
        refuse_mostly_broken(self.root, len(self.images), self.set_aside)
        for name, count in self.counts().items():
            if not count["train"]:
                named = printable(name)
                broken = [one for one in self.set_aside if one.split == "train" and name in one.path.split("/")[:-1]]
                raise DataError(f"class {named} in {where} has no usable training image{_why(broken)}; add some")
        if not self.of("val"):
            broken = [one for one in self.set_aside if one.split == "val"]
            what_now = "add some, or remove its val folder" if "val" in self.splits else "add some"
            raise DataError(f"{where} has no usable validation image{_why(broken)}; {what_now}")

    def verify(self, image: ImageRecord) -> None:
        """Check that an image has not changed since the scan; its bytes are read only if the modification time differs.

        Raises:
            DataError: it was removed or changed.
        """
        verify_file(self.file(image), image)

    def diff(self, now: Manifest) -> list[str]:
        """Return how the images of `now` differ from these by content, one line each.

        The location of the root and modification times do not matter; an image that only one of the two sets aside does
        not differ if its bytes are the same.
        """
        before, after = self._contents(), now._contents()
        gone = {path: sha256 for path, (sha256, _) in before.items() if path not in after}
        new = {path: sha256 for path, (sha256, _) in after.items() if path not in before}
        origins = {sha256: path for path, sha256 in gone.items()}
        lines = []
        for path, sha256 in new.items():
            origin = origins.pop(sha256, None)
            lines.append(f"added: {path}" if origin is None else f"moved: {origin} -> {path}")
            gone.pop(origin or "", None)
        lines += [f"removed: {path}" for path in gone]
        for path in before.keys() & after.keys():
            (old_sha256, old_split), (new_sha256, new_split) = before[path], after[path]
            if old_sha256 != new_sha256:
                lines.append(f"changed: {path}")
            elif old_split != new_split:
                lines.append(f"moved from {old_split} to {new_split}: {path}")
        return sorted(map(printable, lines))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; each image is a list of the values of its fields."""
        return {
            "root": str(self.root),
            "layout": self.layout,
            "splits": dict(self.splits),
            "classes": list(self.classes),
            "notes": list(self.notes),
            "set_aside": [asdict(broken) for broken in self.set_aside],
            "image_fields": list(_FIELDS),
            "images": [list(_values(image)) for image in self.images],
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
            manifest = cls(
                root=Path(values["root"]),
                classes=tuple(_text(name) for name in values["classes"]),
                images=tuple(ImageRecord(**dict(zip(names, row, strict=True))) for row in values["images"]),
                set_aside=tuple(SetAside(**broken) for broken in values["set_aside"]),
                notes=tuple(_text(note) for note in values["notes"]),
                layout=_text(values["layout"]),
                splits={split: _text(name) for split, name in values.get("splits", {}).items() if split in SPLITS},
            )
            for image in manifest.images:
                _check_image(image, len(manifest.classes))
            for broken in manifest.set_aside:
                _check_file(broken)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ArtefactError(f"the manifest is damaged: {error}") from error
        return manifest

    def _contents(self) -> dict[str, tuple[str, Split]]:
        entries: tuple[ImageRecord | SetAside, ...] = (*self.images, *self.set_aside)
        return {entry.path: (entry.sha256, entry.split) for entry in entries}


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


def _why(broken: Sequence[SetAside]) -> str:
    """Return how many images cannot be read and which is the first, for a message."""
    if not broken:
        return ""
    first = broken[0]
    return f" ({len(broken):,} cannot be read, such as {printable(first.path)}: {first.reason})"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {value!r}")
    return value


def _check_image(image: ImageRecord, classes: int) -> None:
    _check_file(image)
    for number in (image.label, image.bytes, image.mtime_ns):
        if type(number) is not int:
            raise TypeError(f"an integer expected, not {number!r}")
    if not 0 <= image.label < classes:
        raise ValueError(f"{image.path} has label {image.label} of {classes} classes")


def _check_file(entry: ImageRecord | SetAside) -> None:
    text = _text(entry.path)
    if text.startswith("/") or (".." in text and ".." in PurePosixPath(text).parts):
        raise ValueError(f"{text} leads out of the data folder")
    if entry.split not in SPLITS:
        raise ValueError(f"{text} is in no split")
    if len(_text(entry.sha256)) != 64:
        raise ValueError(f"{text} has no SHA-256")
