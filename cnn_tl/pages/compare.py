"""The page of a comparison: models side by side, their differences, and the images that only one gets right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnn_tl.pages.charts.bars import bar, interval_bar
from cnn_tl.pages.content import Gallery
from cnn_tl.pages.page import render
from cnn_tl.pages.pictures import Pictures


@dataclass(frozen=True)
class ComparedRow:
    """One model: its letter, name, accuracy with interval, and other cells in the order of the headers."""

    letter: str
    name: str
    accuracy: float
    interval: tuple[float, float]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class ComparePage:
    """What the page shows.

    Attributes:
        verdict: a sentence for each difference.
        headers: of the other cells of each model.
        differences: cells of each difference. difference_headers: their headers.
        data: all of it as plain data; embedded as JSON.
    """

    title: str
    subtitle: str
    verdict: tuple[str, ...]
    headers: tuple[str, ...]
    models: tuple[ComparedRow, ...]
    difference_headers: tuple[str, ...]
    differences: tuple[tuple[str, ...], ...]
    galleries: tuple[Gallery, ...]
    notes: tuple[str, ...]
    data: Mapping[str, Any]


def render_comparison(page: ComparePage) -> str:
    """Return the page as HTML; it loads nothing."""
    return render("compare.html", page=page, pictures=Pictures(), bar=bar, interval_bar=interval_bar)
