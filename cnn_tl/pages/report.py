"""The report: one page that says how good a model is, what it gets wrong, and what would help."""

from __future__ import annotations

from typing import Any

from cnn_tl.metrics.figures import ClassFigures
from cnn_tl.pages.charts.bars import bar, interval_bar
from cnn_tl.pages.charts.calibration import calibration_chart
from cnn_tl.pages.charts.curves import curve_charts
from cnn_tl.pages.charts.learning_curve import learning_curve_chart
from cnn_tl.pages.charts.overview import overview
from cnn_tl.pages.charts.risk import risk_chart
from cnn_tl.pages.confusion import MOST_CLASSES_IN_OVERVIEW, cells_of, pairs_of
from cnn_tl.pages.content import ReportPage
from cnn_tl.pages.image_list import image_list
from cnn_tl.pages.page import render
from cnn_tl.pages.pictures import Pictures

MOST_CLASSES_IN_FULL = 100
"""Up to so many classes, the table has a bar for each."""

WORST_CLASSES = 50
"""Of more, the classes with bars; the others are in a plain table."""

MOST_CELLS = 20_000
"""Cells of the confusion matrix in the JSON, the fullest; `confusion_left_out` counts the others."""


def render_report(page: ReportPage) -> str:
    """Return the page as HTML; it loads nothing, and is at most a few megabytes whatever the number of images."""
    full, compact = _class_rows(page)
    confusion_KK = page.figures.confusion
    small_enough = len(confusion_KK) <= MOST_CLASSES_IN_OVERVIEW
    cells = cells_of(page)
    return render(
        "report.html",
        page=page,
        figures=page.figures,
        pictures=Pictures(),
        bar=bar,
        interval_bar=interval_bar,
        classes_in_full=full,
        other_classes=compact,
        cells=cells,
        overview=overview(confusion_KK) if cells is None and small_enough else None,
        pairs=pairs_of(page),
        confused_pairs=len(page.figures.confused()),
        classes_with_images=sum(one.images > 0 for one in page.figures.per_class.values()),
        calibration=calibration_chart(page.figures.calibration),
        risk=risk_chart(page.answers.confidence, page.answers.right),
        curves=curve_charts(page.epochs, page.kept_epoch),
        what_more_brings=page.learning_curve
        and learning_curve_chart(page.learning_curve.measured, page.learning_curve.foretold),
        images=image_list(page.answers),
        data=as_json(page),
    )


def as_json(page: ReportPage) -> dict[str, Any]:
    """Return all figures of the page as plain data: what it embeds, and what `--json` prints."""
    figures = page.figures.to_dict()
    cells = figures["confusion"]
    if len(cells) > MOST_CELLS:
        figures["confusion"] = sorted(cells, key=lambda cell: -int(cell[2]))[:MOST_CELLS]
        figures["confusion_left_out"] = len(cells) - MOST_CELLS
    return {
        "title": page.title,
        "subtitle": page.subtitle,
        "verdict": list(page.verdict),
        "figures": figures,
        "epochs": [dict(row) for row in page.epochs],
        "facts": dict(page.facts),
    }


def _class_rows(page: ReportPage) -> tuple[list[tuple[int, str, ClassFigures]], list[tuple[int, str, ClassFigures]]]:
    """Return (index, name, figures) of the classes with bars and of the others, the lowest recall first."""
    rows = [(index, name, one) for index, (name, one) in enumerate(page.figures.per_class.items())]
    rows.sort(key=lambda row: (2.0 if row[2].recall is None else row[2].recall, -row[2].images))
    most = len(rows) if len(rows) <= MOST_CLASSES_IN_FULL else WORST_CLASSES
    return rows[:most], rows[most:]
