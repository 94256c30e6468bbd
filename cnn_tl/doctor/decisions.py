"""The log of decisions that `cnn-tl review` keeps in a doctor's folder, and exclude.txt and relabel.csv from it.

A decision counts once its line is in the log and synced; only then are the two files replaced. A kill in between is
made good when the log is opened again. An undo is a further line, so the log is only ever appended to.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from cnn_tl.core.errors import ArtefactError, ResourceError, printable
from cnn_tl.core.files import disk_errors, write_text
from cnn_tl.core.locks import try_lock
from cnn_tl.core.text_encoding import read_text
from cnn_tl.data.corrections import RELABEL_HEADER, csv_row, exclude_line, read_exclude, read_rows, written

LOG, EXCLUDE, RELABEL = "decisions.jsonl", "exclude.txt", "relabel.csv"

MARK = "# decided in cnn-tl review:"
"""The line of exclude.txt that stands before the images that review excluded."""

KEPT = "# kept in review: "
"""Stands before a line of exclude.txt that a decision contradicts; an undo takes it away."""

_MOST = 1 << 28

Choice = Literal["keep", "exclude", "relabel"]


@dataclass(frozen=True)
class Verdict:
    """What was decided about one image.

    Attributes:
        label: the class that it gets, or keeps; None: it is excluded, or its class is not known.
        adds: whether this adds a line to exclude.txt or relabel.csv; not if it stands there already, or none is needed.
    """

    image: str
    choice: Choice
    label: str | None = None
    adds: bool = False


class Decisions:
    """The decisions in a folder, held by one process. Not for several threads at once.

    Opening brings exclude.txt and relabel.csv in line with the log, if it has lines: doctor does so after it has
    written them anew.

    Args:
        folder: that of a doctor.

    Attributes:
        excluded_before, relabelled_before: what others than review had written into exclude.txt and relabel.csv:
            images, and images with their class.

    Raises:
        ResourceError: another process holds them, or the folder cannot be written.
        ArtefactError: the log is damaged.
        DataError: exclude.txt or relabel.csv is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / LOG
        self._stack: list[list[Verdict]] = []
        self._ever: list[Verdict] = []
        try:
            self._descriptor = os.open(self._log, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            raise ResourceError(
                f"cannot write {printable(self._log)}: {error.strerror}; copy the folder to where you may write, "
                "and review the copy"
            ) from error
        try:
            if try_lock(self._descriptor) is False:
                raise ResourceError(f"{printable(folder)} is being reviewed already; end the other cnn-tl review first")
            self._read()
            self.excluded_before, self.relabelled_before = self._of_others()
            if self._ever:
                self._write_files()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._descriptor)

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """What holds of each image that was decided about."""
        return {verdict.image: verdict for event in self._stack for verdict in event}

    def __len__(self) -> int:
        """How many decisions hold, which is how many can be undone."""
        return len(self._stack)

    def decide(self, verdicts: Sequence[Verdict]) -> None:
        """Record what was decided about some images; it is on the disk when this returns.

        Raises:
            ResourceError: it cannot be written. DataError: exclude.txt or relabel.csv was damaged in the meantime.
        """
        event = self._with_lines(verdicts)
        self._append({"at": _now(), "decided": [asdict(verdict) for verdict in event]})
        self._stack.append(event)
        self._ever += event
        self._write_files()

    def undo(self) -> list[str]:
        """Take the last decision back, and return the images that it was about; none: there is no decision.

        Raises:
            ResourceError: it cannot be written. DataError: exclude.txt or relabel.csv was damaged in the meantime.
        """
        if not self._stack:
            return []
        self._append({"at": _now(), "undone": len(self._stack)})
        images = [verdict.image for verdict in self._stack.pop()]
        self._write_files()
        return images

    def _with_lines(self, verdicts: Sequence[Verdict]) -> list[Verdict]:
        """Return the verdicts, and whether each needs a line, seeing what others than review wrote into the files."""
        excluded, labelled = self._of_others()
        return [replace(one, adds=_needs_line(one, excluded, labelled)) for one in verdicts]

    def _of_others(self) -> tuple[set[str], dict[str, str]]:
        """Return what others than review wrote into the files: images to exclude, and images with their class.

        Raises:
            DataError: a file is damaged.
        """
        ours = self._ours()
        path = self.folder / EXCLUDE
        excluded = {name for name in read_exclude(path) if (name, None) not in ours} if path.exists() else set()
        kept = [line[len(KEPT) :].strip() for line in _lines(path) if line.startswith(KEPT)]
        excluded |= {json.loads(name) if name.startswith('"') else name.removeprefix("./") for name in kept}
        path = self.folder / RELABEL
        rows = read_rows(path, ("image", "label")) if path.exists() else ()
        return excluded, {image: label for _, (image, label) in rows if (image, label) not in ours}

    def _ours(self) -> set[tuple[str, str | None]]:
        """Return what review has ever added: images that are excluded, with None, and images with a class."""
        return {(one.image, None if one.choice == "exclude" else one.label) for one in self._ever if one.adds}

    def _write_files(self) -> None:
        """Bring exclude.txt and relabel.csv in line with the log; other lines than those of review stay."""
        ours, verdicts = self._ours(), self.verdicts.values()
        added = [one for one in verdicts if one.adds]
        _replace(self.folder / EXCLUDE, _excluding(_lines(self.folder / EXCLUDE), ours, verdicts, added))
        _replace(self.folder / RELABEL, _labelling(_lines(self.folder / RELABEL), ours, added))

    def _append(self, event: dict[str, object]) -> None:
        """Append a line to the log and sync it; a line that could not be written as a whole is taken away again."""
        data = (json.dumps(event) + "\n").encode()
        with disk_errors(self._log):
            end = os.lseek(self._descriptor, 0, os.SEEK_END)
            try:
                rest = data
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                os.fsync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, end)
                raise

    def _read(self) -> None:
        """Read the log; a last line without an end, which nobody was told of, is dropped.

        Raises:
            ArtefactError: another line is damaged.
        """
        with disk_errors(self._log):
            data = self._log.read_bytes()
            whole = data.rpartition(b"\n")[0] + b"\n" if b"\n" in data else b""
            if len(whole) < len(data):
                os.ftruncate(self._descriptor, len(whole))
                os.fsync(self._descriptor)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                event = json.loads(line)
                if "undone" in event:
                    self._stack.pop()
                else:
                    self._stack.append([Verdict(**one) for one in event["decided"]])
                    self._ever += self._stack[-1]
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise ArtefactError(
                    f"{printable(self._log)}, line {number} is damaged; remove it, or move the file away to begin anew"
                ) from error


def _needs_line(one: Verdict, excluded: set[str], labelled: dict[str, str]) -> bool:
    if one.choice == "exclude":
        return one.image not in excluded
    # an image that is kept needs a row only against another row: of several the last one counts
    return one.label is not None and labelled.get(one.image, one.label if one.choice == "keep" else None) != one.label


def _excluding(
    lines: Sequence[str], ours: set[tuple[str, str | None]], verdicts: Iterable[Verdict], added: Iterable[Verdict]
) -> list[str]:
    """Return the lines of exclude.txt: those of others, as comments where a decision contradicts them, then ours."""
    used = {name for one in verdicts if one.choice != "exclude" for name in _spellings(one.image)}
    spelled = {name for image, label in ours if label is None for name in _spellings(image)}
    others = [line.removeprefix(KEPT) for line in lines if line != MARK and line.strip() not in spelled]
    others = [f"{KEPT}{line.strip()}" if line.strip() in used else line for line in others]
    excluded = [exclude_line(one.image)[:-1] for one in added if one.choice == "exclude"]
    return [*others, MARK, *excluded] if excluded else others


def _labelling(lines: Sequence[str], ours: set[tuple[str, str | None]], added: Iterable[Verdict]) -> list[str]:
    """Return the lines of relabel.csv: its header and the rows of others, then ours, in the columns that it has."""
    labelled = [(one.image, one.label) for one in added if one.label is not None]
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    header = lines[start] if start < len(lines) else RELABEL_HEADER[:-1]
    columns = [name.strip().casefold() for name in next(csv.reader([header]))]
    places = [columns.index(name) for name in ("image", "label")]
    mine = {tuple(written(str(value)) for value in pair) for pair in ours if pair[1] is not None}
    rows = [line for line in lines[start + 1 :] if _values(line, places) not in mine]
    for pair in labelled:
        row = [""] * len(columns)
        for place, value in zip(places, pair, strict=True):
            row[place] = written(value)
        rows.append(csv_row(row)[:-1])
    return [header, *rows] if rows or lines else []


def _values(line: str, places: Sequence[int]) -> tuple[str, ...]:
    row = next(csv.reader([line]), [])
    return tuple(row[place].strip() if place < len(row) else "" for place in places)


def _spellings(image: str) -> set[str]:
    return {written(image), f"./{image}"}


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file; none if there is no file."""
    if not path.exists():
        return []
    with disk_errors(path):
        text = read_text(path, _MOST).replace("\r\n", "\n").removesuffix("\n")
    return text.split("\n") if text else []


def _replace(path: Path, lines: Sequence[str]) -> None:
    """Write a file atomically, unless it holds these lines already."""
    if list(lines) != _lines(path):
        write_text(path, "".join(f"{line}\n" for line in lines))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
