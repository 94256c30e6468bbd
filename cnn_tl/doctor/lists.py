"""The lists of a diagnosis as CSV: twins, labels, neighbours and outliers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cnn_tl.data.corrections import csv_row, written
from cnn_tl.doctor.diagnosis import Diagnosis


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "".join(csv_row(row) for row in (header, *rows))


def twins(found: Diagnosis) -> str:
    """Return twins.csv: all pairs that were compared, the surest first."""
    images, twins = found.collection, found.screens.twins
    names, splits = [written(name) for name in images.files], images.splits
    return _csv(
        ("image_a", "image_b", "split_a", "split_b", "kind", "score", "group", "verified"),
        (
            (
                *(names[first], names[second], splits[first], splits[second], kind),
                *(f"{score:.4f}", int(twins.groups[first]) if verified else "", _bool(verified)),
            )
            for (first, second), kind, score, verified in zip(
                twins.pairs.tolist(), twins.kinds, twins.scores.tolist(), twins.verified.tolist(), strict=True
            )
        ),
    )


def labels(found: Diagnosis) -> str:
    """Return labels.csv: every image, the most suspect first; `probability` is that of the given class."""
    images, labels = found.collection, found.screens.labels
    names, classes = images.files, [written(name) for name in images.classes]
    return _csv(
        ("image", "given", "suggested", "score", "probability", "suspect"),
        (
            (
                *(written(names[index]), classes[labels.given[index]], classes[labels.suggested[index]]),
                *(f"{labels.score[index]:.4f}", f"{labels.probability[index]:.4f}"),
                _bool(bool(labels.suspect[index])),
            )
            for index in labels.order.tolist()
        ),
    )


def neighbours(found: Diagnosis) -> str:
    """Return neighbours.csv: the nearest images with another label."""
    names, nearest = found.collection.files, found.screens.labels.nearest
    return _csv(
        ("image", "neighbour"),
        ((written(names[index]), written(names[other])) for index, others in nearest.items() for other in others),
    )


def outliers(found: Diagnosis) -> str:
    """Return outliers.csv, the farthest first."""
    names, classes = found.collection.files, found.collection.classes
    return _csv(
        ("image", "class", "kind", "score", "value"),
        (
            (written(names[one.index]), written(classes[one.label]), one.kind, f"{one.score:.2f}", f"{one.value:.6g}")
            for one in found.screens.outliers
        ),
    )


def _bool(value: bool) -> str:
    return "true" if value else "false"
