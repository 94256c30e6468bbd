"""The confusion matrix of many classes as a heat map without numbers."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

LEVELS = 9
"""Steps of colour; page.css has a class for each, `q1` to `q9`."""


def level(share: float) -> int:
    """Return the step of colour of a share of a row: 0 only for none; the root, so that rare mistakes are seen."""
    return 0 if share <= 0 else min(1 + int(LEVELS * share**0.5), LEVELS)


def overview(confusion_KK: NDArray[np.int64]) -> Markup:
    """Return the heat map: rows are the labels, columns the answers, colour the share of the row."""
    side = len(confusion_KK)
    sizes_K = np.maximum(confusion_KK.sum(axis=1), 1)
    paths: dict[str, list[str]] = {}
    for i, j in np.argwhere(confusion_KK):
        kind = f"{'on' if i == j else 'off'} q{level(confusion_KK[i, j] / sizes_K[i])}"
        paths.setdefault(kind, []).append(f"M{j} {i}h1v1h-1z")
    title = f"Confusion matrix of {side} classes: labels by row, answers by column"
    head = Markup('<svg class="overview" viewBox="0 0 {0} {0}" role="img" aria-label="{1}"><title>{1}</title>')
    shapes = [Markup('<path class="cell {}" d="{}"/>').format(kind, "".join(one)) for kind, one in paths.items()]
    return head.format(side, title) + Markup("").join(shapes) + Markup("</svg>")
