"""What a doctor writes: the lists, the summary, and the page, into a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cnn_tl.core import files
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.data.corrections import (
    RELABEL_HEADER,
    exclude_line,
    read_exclude,
    read_relabel,
    relabel_row,
)
from cnn_tl.doctor import lists
from cnn_tl.doctor.decisions import EXCLUDE, LOG, RELABEL, Decisions
from cnn_tl.doctor.diagnosis import Diagnosis
from cnn_tl.doctor.page import page_of
from cnn_tl.doctor.summary import summary_of
from cnn_tl.doctor.twins import Twins
from cnn_tl.inference.safe_output import require_writable
from cnn_tl.pages.doctor import render_doctor
from cnn_tl.reporting import doctor_findings

SUMMARY = "summary.json"
PAGE = "index.html"
EQUAL = frozenset({"equal bytes", "equal pixels"})
"""Kinds of twins that are the same image for certain."""

_GENERATOR = "cnn-tl doctor"
BY_HAND = "written by hand"


def require_folder(output: Path, data: Path) -> None:
    """Refuse a folder that holds anything but what a doctor has written, before any work is done.

    Raises:
        UsageError: it is a file, lies in the data folder, or holds other files.
        ResourceError: it cannot be written, or a review of it is running.
    """
    where = f"--output {printable(output)}"
    if output.exists() and not output.is_dir():
        raise UsageError(f"{where} is a file; name a folder")
    if output.resolve().is_relative_to(data.resolve()):
        raise UsageError(f"{where} would lie inside the data folder; choose another place")
    if output.is_dir() and any(output.iterdir()):
        if not _is_own(output):
            raise UsageError(f"{where} holds other files; name a new folder")
        _put_decisions_back(output)
        _by_hand(output)
    require_writable(output / SUMMARY, "--output")


def _is_own(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / SUMMARY).read_text("utf-8"))["written_by"] == _GENERATOR)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_folder(found: Diagnosis, output: Path) -> None:
    """Write all files, summary.json last.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    by_hand = _by_hand(output)
    with files.disk_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    excluded, relabelled = _excluded(found), _relabelled(found)
    for name, text in (
        ("twins.csv", lists.twins(found)),
        ("labels.csv", lists.labels(found)),
        ("neighbours.csv", lists.neighbours(found)),
        ("outliers.csv", lists.outliers(found)),
        ("shortcuts.json", files.as_json([one.to_json() for one in found.screens.shortcuts])),
        (EXCLUDE, _exclude({**excluded, BY_HAND: by_hand.exclude})),
        (RELABEL, _relabel({**relabelled, **by_hand.relabel})),
        (PAGE, render_doctor(page_of(found, output))),
    ):
        files.write_text(output / name, text)
    _put_decisions_back(output)
    listed = {"exclude": [path for paths in excluded.values() for path in paths], "relabel": relabelled}
    files.write_json(output / SUMMARY, {"written_by": _GENERATOR, **summary_of(found), "listed": listed})


def _put_decisions_back(folder: Path) -> None:
    """Bring exclude.txt and relabel.csv in line with what a review of the folder has decided.

    Raises:
        ResourceError: the review is still running.
    """
    if (folder / LOG).exists():
        Decisions(folder).close()


def remember(found: Diagnosis, output: Path | None) -> None:
    """Keep the findings for reports of runs on the same data."""
    findings = tuple((one.kind, one.count, one.text) for one in found.findings)
    day = datetime.now(UTC).date().isoformat()
    place = None if output is None else str(output.resolve())
    doctor_findings.remember(found.digest, doctor_findings.FoundBefore(day, findings, place))


def extra_copies(twins: Twins, splits: Sequence[str], labels: Sequence[int]) -> list[int]:
    """Return the images whose file or pixels are equal to those of an earlier one of the same class and split."""
    pairs = zip(twins.pairs.tolist(), twins.kinds, strict=True)
    first = {second: first for (first, second), kind in pairs if kind in EQUAL}
    seen: set[tuple[int, str, int]] = set()
    copies = []
    for index in sorted({*first, *first.values()}):
        same_bytes = first.get(index, index)
        place = first.get(same_bytes, same_bytes), splits[index], labels[index]
        if place in seen:
            copies.append(index)
        seen.add(place)
    return copies


def _excluded(found: Diagnosis) -> dict[str, list[str]]:
    """Return what the examined data leave out already, and images whose loss is sure to do no harm, by the reason."""
    images, screens = found.collection, found.screens
    names = images.files
    copies = extra_copies(screens.twins, images.splits, images.labels.tolist())
    return {
        "left out by data.exclude already": [one.path for one in found.manifest.excluded],
        "images of train with a twin in val or test": [names[at] for at in screens.leaks.in_training],
        "equal to another image of the same class and split": [names[at] for at in copies],
    }


def _exclude(reasons: Mapping[str, Sequence[str]]) -> str:
    """Return exclude.txt: each image under the first of its reasons."""
    lines = ["# For data.exclude: one image a line. cnn-tl review adds what you decide.\n"]
    chosen: set[str] = set()
    for title, paths in reasons.items():
        rest = [path for path in paths if path not in chosen]
        if rest:
            lines += [f"# {title}\n", *map(exclude_line, rest)]
            chosen |= set(rest)
    return "".join(lines)


def _relabelled(found: Diagnosis) -> dict[str, str]:
    """Return the labels that data.relabel has changed already; doctor proposes no others."""
    return {one.path: found.manifest.classes[one.label] for one in found.manifest.relabelled()}


def _relabel(labels: Mapping[str, str]) -> str:
    return "".join((RELABEL_HEADER, *(relabel_row(path, label) for path, label in labels.items())))


@dataclass(frozen=True)
class _ByHand:
    exclude: list[str]
    relabel: dict[str, str]


def _by_hand(folder: Path) -> _ByHand:
    """Return what neither the doctor of before nor a review wrote into exclude.txt and relabel.csv.

    Raises:
        DataError: one of them is damaged. ResourceError: a review is running.
    """
    if not _is_own(folder):
        return _ByHand([], {})
    listed = json.loads((folder / SUMMARY).read_text("utf-8")).get("listed")
    if listed is None:
        return _ByHand([], {})
    if (folder / LOG).exists():
        decisions = Decisions(folder)
        excluded, relabelled = sorted(decisions.excluded_before), decisions.relabelled_before
        decisions.close()
    else:
        excluded = list(read_exclude(folder / EXCLUDE)) if (folder / EXCLUDE).exists() else []
        relabelled = read_relabel(folder / RELABEL) if (folder / RELABEL).exists() else {}
    ours = set(listed["exclude"])
    return _ByHand(
        [path for path in excluded if path not in ours],
        {path: label for path, label in relabelled.items() if listed["relabel"].get(path) != label},
    )
