"""A diagnosis as plain data: what `--json` prints and summary.json holds."""

from __future__ import annotations

from collections import Counter
from math import isnan
from typing import Any

from cnn_tl import __version__
from cnn_tl.doctor.diagnosis import Diagnosis
from cnn_tl.doctor.findings import KINDS
from cnn_tl.doctor.series import Series
from cnn_tl.doctor.twins import Twins


def summary_of(found: Diagnosis) -> dict[str, Any]:
    """Return the summary as plain data, the same as `--json` prints."""
    images, screens = found.collection, found.screens
    return {
        "version": __version__,
        "source": found.name,
        "data": {
            "root": str(images.root.resolve()),
            "images": found.manifest.counts(),
            "set_aside": len(found.manifest.set_aside),
            "notes": list(found.manifest.notes),
        },
        "classes": list(images.classes),
        "backbones": list(found.backbones),
        "features_computed": found.computed,
        "findings": [one.to_dict() for one in found.findings],
        "nothing_found": [kind for kind in KINDS if kind not in {one.kind for one in found.findings}],
        "twins": _twins_summary(screens.twins),
        "leaks": {split: len(indices) for split, indices in screens.leaks.leaked.items()},
        "leaked_accuracy": [one.to_dict() for one in screens.accuracies],
        "labels": {
            "estimated_wrong": screens.labels.estimated,
            "suspects": int(screens.labels.suspect.sum()),
            "informative": screens.labels.informative,
            "fits": list(screens.labels.fits),
        },
        "shortcuts": [one.to_json() for one in screens.shortcuts if one.found],
        "series": None if screens.series is None else _series_summary(screens.series),
        "seconds": found.seconds,
    }


def _twins_summary(twins: Twins) -> dict[str, Any]:
    kinds = Counter(kind for kind, verified in zip(twins.kinds, twins.verified.tolist(), strict=True) if verified)
    return {
        "groups": int(twins.groups.max(initial=-1)) + 1,
        "images": int((twins.groups >= 0).sum()),
        "verified_pairs": dict(kinds.most_common()),
        "threshold": twins.threshold,
        "calibrated": twins.calibrated,
        "estimated_precision": twins.precision,
        "recall_of_made_twins": twins.recall,
    }


def _series_summary(series: Series) -> dict[str, Any]:
    return {
        "series": len(series.names),
        "images": int((series.groups >= 0).sum()),
        "pattern": series.pattern,
        "crossing": series.crossing,
        "alike": None if isnan(series.alike) else series.alike,
    }
