"""What the data of a run are, from its manifest: counts, formats, sizes, what was set aside and why, remarks."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from cnn_tl.core.formatting import counted, readable_bytes
from cnn_tl.data.manifest import SPLITS, Manifest, Split
from cnn_tl.pages.content import Table
from cnn_tl.reporting.doctor_findings import FoundBefore

if TYPE_CHECKING:
    from cnn_tl.evaluating.evaluate import Evaluation

MOST = 20
"""Rows of classes, and of images that were set aside."""

MOST_IN_JSON = 1000
"""Images that were set aside, in the JSON of a page; the manifest of the run has all."""

Row = tuple[str, str, str]


def data_facts(manifest: Manifest) -> dict[str, Any]:
    """Return what the data are, of every class."""
    broken = manifest.set_aside
    return {
        "folder": str(manifest.root),
        "layout": manifest.layout,
        "images": manifest.counts(),
        "formats": dict(_formats(manifest).most_common()),
        "bytes": sum(image.bytes for image in manifest.images),
        "set_aside": [{"file": one.path, "split": one.split, "reason": one.reason} for one in broken[:MOST_IN_JSON]],
        "set_aside_left_out": max(0, len(broken) - MOST_IN_JSON),
        "excluded": [one.path for one in manifest.excluded[:MOST_IN_JSON]],
        "kept_apart": [one.path for one in manifest.kept_apart[:MOST_IN_JSON]],
        "relabelled": [
            {"file": one.path, "given": manifest.classes[one.given], "label": manifest.classes[one.label]}
            for one in manifest.relabelled()[:MOST_IN_JSON]
            if one.given is not None
        ],
        "notes": list(manifest.notes),
    }


def data_table(manifest: Manifest, facts: dict[str, Any], examined: FoundBefore | None) -> Table:
    """Return the table of the data.

    Args:
        facts: those of `data_facts`, which take a while to count.
        examined: what a doctor found in the same data.
    """
    splits = {split: sum(counts[split] for counts in facts["images"].values()) for split in SPLITS}
    rows = [
        ("folder", str(manifest.root), manifest.layout),
        ("classes", f"{len(manifest.classes):,}", ""),
        ("images", f"{len(manifest.images):,}", ", ".join(f"{splits[s]:,} {s}" for s in SPLITS if splits[s])),
        *_class_rows(facts["images"]),
        *_file_rows(manifest, facts),
        *_set_aside_rows(manifest),
        *_correction_rows(manifest),
        *(("remark", "", note) for note in manifest.notes),
        *_doctor_rows(examined),
    ]
    return Table("Data", tuple(rows))


def _doctor_rows(examined: FoundBefore | None) -> list[Row]:
    if examined is None:
        return []
    where = f", see {examined.output}" if examined.output else ""
    if not examined.findings:
        return [("doctor", "nothing found", f"on {examined.day}{where}")]
    head = ("doctor", counted(len(examined.findings), "finding"), f"on {examined.day}{where}")
    return [head, *((kind, f"{count:,}", text) for kind, count, text in examined.findings)]


def _class_rows(counts: dict[str, dict[Split, int]]) -> list[Row]:
    """Return the images of each class; of many classes, only the extremes."""
    if len(counts) > MOST:
        training = {name: splits["train"] for name, splits in counts.items()}
        least, most = min(training, key=training.__getitem__), max(training, key=training.__getitem__)
        middle = f"{median(training.values()):g} in the median class"
        return [
            ("fewest for training", f"{training[least]:,}", least),
            ("most for training", f"{training[most]:,}", f"{most}; {middle}"),
        ]
    return [
        (f"class {name}", f"{sum(splits.values()):,}", ", ".join(f"{splits[s]:,} {s}" for s in SPLITS if splits[s]))
        for name, splits in counts.items()
    ]


def _file_rows(manifest: Manifest, facts: dict[str, Any]) -> list[Row]:
    formats = ", ".join(f"{name} {count:,}" for name, count in facts["formats"].items())
    rows = [("formats", formats, "by suffix")]
    if sizes := [image.bytes for image in manifest.images]:
        spread = f"from {readable_bytes(min(sizes))} to {readable_bytes(max(sizes))}, median "
        rows.append(("size", readable_bytes(facts["bytes"]), f"{spread}{readable_bytes(round(median(sizes)))}"))
    return rows


def _formats(manifest: Manifest) -> Counter[str]:
    suffixes = Counter(posixpath.splitext(image.path)[1] for image in manifest.images)
    found: Counter[str] = Counter()
    for suffix, count in suffixes.items():
        found[suffix.lower().lstrip(".") or "none"] += count
    return found


def _set_aside_rows(manifest: Manifest) -> list[Row]:
    broken = [(one.path, one.reason) for one in manifest.set_aside]
    if not broken:
        return [("set aside", "0", "every image could be read")]
    return _named_rows("set aside", "that could not be used", broken)


def _correction_rows(manifest: Manifest) -> list[Row]:
    """Return what `data.exclude`, `data.relabel` and `data.groups` left out and changed, with the first names."""
    entries = [(one.path, one.reason) for one in manifest.excluded]
    rows = _named_rows("excluded", "left out", entries)
    rows += _named_rows(
        "relabelled",
        "with a label that is not that of the folder",
        [
            (one.path, f"{manifest.classes[one.given]}, now {manifest.classes[one.label]}")
            for one in manifest.relabelled()
            if one.given is not None
        ],
    )
    apart = [(one.path, f"group {one.group}") for one in manifest.kept_apart]
    return rows + _named_rows("kept apart", "left out, as their groups have images in another split", apart)


def _named_rows(name: str, what: str, entries: Sequence[tuple[str, str]]) -> list[Row]:
    if not entries:
        return []
    rows = [(name, f"{len(entries):,}", f"{counted(len(entries), 'image')} {what}:")]
    rows += [("", path, remark) for path, remark in entries[:MOST]]
    return rows if len(entries) <= MOST else [*rows, ("", f"and {len(entries) - MOST:,} more", "")]


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return the table of the images of an evaluation."""
    left_out = {None: "it is not known whether the model was trained on them", 0: "no training image among them"}
    trained = left_out.get(evaluation.trained_on) or f"{evaluation.trained_on:,} training images left out"
    if evaluation.split == "train":
        trained = "the model was trained on these images, so that all figures are too good"
    rows = [
        ("folder", evaluation.data, f"split {evaluation.split}" if evaluation.split else ""),
        ("classes", f"{len(evaluation.classes):,}", ""),
        ("images", f"{evaluation.images:,}", trained),
        *(("could not be read", file, reason) for file, reason in evaluation.unreadable[:MOST]),
        *(("remark", "", note) for note in evaluation.notes),
    ]
    if (more := len(evaluation.unreadable) - MOST) > 0:
        rows.append(("could not be read", f"and {more:,} more", ""))
    return Table("Data", tuple(rows))
