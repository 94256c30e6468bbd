"""Applies a user's corrections to the images that were found: which are left out, and which have another label."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cnn_tl.core.errors import DataError, printable
from cnn_tl.data.corrections import read_exclude, read_relabel
from cnn_tl.data.manifest import ImageRecord, SetAside

Entry = ImageRecord | SetAside


@dataclass(frozen=True)
class Corrected:
    """Images as corrected.

    Attributes:
        images: those to use, with their new labels, in the order in which they were found.
        broken: those that cannot be read; an image that is to be left out does not count.
        excluded: those that are left out.
        notes: what was done, for the user.
    """

    images: tuple[ImageRecord, ...]
    broken: tuple[SetAside, ...]
    excluded: tuple[SetAside, ...] = ()
    notes: tuple[str, ...] = ()


def correct(
    entries: Sequence[Entry], classes: Sequence[str], *, exclude: Path | None, relabel: Path | None, root: Path
) -> Corrected:
    """Leave out the images that one file names, and give those in another file their new labels.

    Args:
        entries: all images that were found, usable or not.
        exclude, relabel: the files, see `cnn_tl.data.corrections`; None: there is none.
        root: the data folder, for messages.

    Raises:
        DataError: a file cannot be used, names only images that do not exist, or a class that does not.
    """
    notes: list[str] = []
    known = {entry.path for entry in entries}
    left_out: Mapping[str, int] = {}
    labels: Mapping[str, str] = {}
    if exclude is not None:
        left_out = read_exclude(exclude)
        notes += unknown_names(left_out, known, exclude, root)
    if relabel is not None:
        labels = read_relabel(relabel, classes)
        notes += unknown_names(labels, known, relabel, root)
    index = {name: label for label, name in enumerate(classes)}
    excluded = tuple(_excluded(entry, exclude) for entry in entries if entry.path in left_out)
    kept = [entry for entry in entries if entry.path not in left_out]
    images = tuple(_relabelled(entry, index, labels) for entry in kept if isinstance(entry, ImageRecord))
    broken = tuple(entry for entry in kept if isinstance(entry, SetAside))
    changed = [image for image in images if image.given is not None]
    if excluded:
        notes.append(f"images left out by {_shown(exclude)}: {_some(excluded)}")
    if changed:
        now = printable(classes[changed[0].label])
        notes.append(f"images relabelled by {_shown(relabel)}: {_some(changed, f', now {now}')}")
    return Corrected(images, broken, excluded, tuple(notes))


def unknown_names(named: Collection[str], known: Collection[str], file: Path, root: Path) -> list[str]:
    """Return a warning, in a list, about names in a file that are no images of the folder; an empty list if all are.

    Raises:
        DataError: none of them is.
    """
    unknown = [name for name in named if name not in known]
    if not unknown:
        return []
    if len(unknown) == len(named):
        example = f", such as {printable(next(iter(known)))}" if known else ""
        raise DataError(
            f"no name in {printable(file)} is an image of {printable(root)}, such as {printable(unknown[0])}; names "
            f"are relative to the data folder{example}"
        )
    return [f"names in {printable(file)} that are no images of the folder: {len(unknown):,} "
            f"(such as {printable(unknown[0])})"]  # fmt: skip


def _excluded(entry: Entry, file: Path | None) -> SetAside:
    return SetAside(entry.path, entry.split, entry.sha256, f"excluded by {_shown(file)}")


def _relabelled(image: ImageRecord, index: Mapping[str, int], labels: Mapping[str, str]) -> ImageRecord:
    label = index[labels[image.path]] if image.path in labels else image.label
    return image if label == image.label else replace(image, label=label, given=image.label)


def _some(entries: Sequence[Entry], remark: str = "") -> str:
    return f"{len(entries):,} (such as {printable(entries[0].path)}{remark})"


def _shown(file: Path | None) -> str:
    return printable(file or "")
