"""Flatten rows of metrics for CSV files and trackers, which take no nested values."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Scalar = str | int | float | bool | None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Return the leaves of nested mappings under dotted names; a list becomes JSON text."""
    flat: dict[str, Scalar] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, str | int | float):
            flat[f"{prefix}{name}"] = value
        else:
            flat[f"{prefix}{name}"] = json.dumps(value, default=str)
    return flat


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV (RFC 4180, so with CRLF); the columns are all keys, in the order of their first use."""
    flat = [flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns)
    if columns:
        writer.writeheader()
        writer.writerows(flat)
    return stream.getvalue()


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a row under dotted names, without the step."""
    return {
        name: float(value)
        for name, value in flatten(row).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and name != "step"
    }


def by_step(rows: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Return step -> row; the step is the number of updates, else the epoch, else the position."""
    return {int(row.get("step", row.get("epoch", place))): row for place, row in enumerate(rows)}
