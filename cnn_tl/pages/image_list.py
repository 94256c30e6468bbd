"""The list of images that the page's script filters and sorts: as many as fit, those that are worth a look first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cnn_tl.core.errors import printable
from cnn_tl.metrics.answers import LabelledAnswers

MOST_IMAGES = 12_000
MOST_BYTES = 1_000_000
"""Of the list as JSON, about: names may be long."""

_NUMBERS = 24
"""Bytes of a row besides its name, about."""


def image_list(answers: LabelledAnswers, most: int = MOST_IMAGES, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Return the list as plain data: wrong answers first, the most confident first; then right ones, least sure first.

    Names are as they are shown: control characters are escaped. `rows` are [file, label, answer, probability of the
    answer, probability of the label or null]; `left_out` is how many images are not in it.
    """
    order_N = np.lexsort((np.where(answers.right, answers.confidence, -answers.confidence), answers.right))
    confidence_N, of_label_N = answers.confidence.tolist(), answers.of_label.tolist()
    rows: list[list[Any]] = []
    for index in order_N[:most].tolist():
        file, of_label = printable(answers.files[index]), of_label_N[index]
        most_bytes -= len(file.encode("utf-8")) + _NUMBERS
        if most_bytes < 0:
            break
        confidence = round(confidence_N[index], 6)
        known = None if math.isnan(of_label) else round(of_label, 6)
        rows.append([file, int(answers.labels[index]), int(answers.predicted[index]), confidence, known])
    return {
        "classes": [printable(name) for name in answers.classes],
        "rows": rows,
        "left_out": len(answers) - len(rows),
        "wrong_left_out": int((~answers.right).sum()) - sum(row[1] != row[2] for row in rows),
    }
