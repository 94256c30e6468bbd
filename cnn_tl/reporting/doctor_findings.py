"""What `cnn-tl doctor` found in a data folder, kept in the cache so that a report of a run on the same data can say it.

A small file `<cache>/doctor/<digest of the images, their classes and splits>.json`; nothing is lost with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cnn_tl.cache.location import default_root
from cnn_tl.core import files
from cnn_tl.core.errors import CnnTlError

REMEMBERED = 200
"""Data folders; the oldest are forgotten."""


@dataclass(frozen=True)
class FoundBefore:
    """What a doctor found in the same images, with the same classes and splits.

    Attributes:
        day: such as "2026-11-28".
        findings: kind, number of images and a sentence each, the most harmful first.
        output: the folder with the lists and the page; None: there is none.
    """

    day: str
    findings: Sequence[tuple[str, int, str]]
    output: str | None


def remember(digest: str, found: FoundBefore) -> None:
    """Keep what was found in the data with this digest; do nothing if the cache cannot be written."""
    with contextlib.suppress(CnnTlError, OSError):
        entry = _entry(digest)
        files.write_json(entry, asdict(found))
        for old in sorted(entry.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-REMEMBERED]:
            old.unlink(missing_ok=True)


def recall(digest: str) -> FoundBefore | None:
    """Return what was found in the data with this digest; None if no doctor has seen it."""
    with contextlib.suppress(CnnTlError, OSError, TypeError, ValueError, KeyError, AttributeError):
        stored = files.read_json(_entry(digest))
        findings = tuple((str(kind), int(count), str(text)) for kind, count, text in stored["findings"])
        return FoundBefore(str(stored["day"]), findings, stored["output"] and str(stored["output"]))
    return None


def _entry(digest: str) -> Path:
    return default_root() / "doctor" / f"{digest}.json"
