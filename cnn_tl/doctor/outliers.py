"""Images unlike the others: foreign ones by their features, damaged ones by light, sharpness, shape and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.doctor.collection import Collection
from cnn_tl.doctor.foreign import Strangeness, strangeness
from cnn_tl.doctor.robust import Values, excess
from cnn_tl.doctor.tones import tones

KINDS: dict[str, str] = {
    "foreign": "Unlike the images of every class: perhaps it belongs to another data set.",
    "unlike its class": "Far from the images of its class, though not from all others: perhaps the label is wrong.",
    "one colour": "All pixels have one colour: there is nothing to see.",
    "nearly empty": "Almost all of it has one tone, far more than in the other images.",
    "low contrast": "Much less contrast than the others.",
    "dark": "Much darker than the others.",
    "bright": "Much brighter than the others.",
    "blurred": "Much less sharp than the others at the size that the network sees.",
    "wide": "Much wider for its height than the others: resizing and cropping leave little of it.",
    "tall": "Much taller for its width than the others: resizing and cropping leave little of it.",
    "tiny": "Far fewer pixels than the others: enlarged, it is a blur.",
}
"""Kind of outlier -> what it means."""

VALUES: dict[str, str] = {
    "foreign": "mean distance to the nearest quarter of its class, 0 to 2",
    "unlike its class": "mean distance to the nearest quarter of its class, 0 to 2",
    "one colour": "standard deviation of its pixels, 0 to 255",
    "nearly empty": "share of the pixels that do not have the commonest tone",
    "low contrast": "standard deviation of the luma, 0 to 255",
    "dark": "mean luma, 0 to 255",
    "bright": "mean luma, 0 to 255",
    "blurred": "standard deviation of the Laplacian of the luma",
    "wide": "width divided by height",
    "tall": "width divided by height",
    "tiny": "width times height, in pixels",
}
"""Kind of outlier -> what the column `value` holds."""

STRANGE = 2.8
"""Robust standard deviations of `Strangeness.score`; on six clean sets 0 to 1% of the images reach it."""

ODD = 4.5
"""Robust standard deviations of a measure."""

_NOTICEABLE = 2.0
"""An odd value also differs from the median by this factor, so that no set is too uniform to be left in peace."""

_ONE_COLOUR = 2.0
"""The standard deviation of one colour all over, which JPEG and scanners ripple a little."""


@dataclass(frozen=True)
class Outlier:
    """One image and why it stands out.

    Attributes:
        index: of the image in the collection. label: of its class.
        kind: a key of `KINDS`. value: in the unit of `VALUES`.
        score: how far from the others, in robust standard deviations; infinite for one colour.
    """

    index: int
    kind: str
    score: float
    value: float
    label: int


def find_outliers(collection: Collection) -> list[Outlier]:
    """Return the outliers of a collection, the farthest first; an image may stand out in several ways."""
    labels = collection.labels
    strange = strangeness(collection.features, labels, len(collection.classes))
    odd = odd_outliers(measured(collection), labels)
    plain = {one.index for one in odd if one.kind == "one colour"}
    found = odd + [one for one in foreign_outliers(strange, labels) if one.index not in plain]
    return sorted(found, key=lambda one: (-one.score, one.index))


def foreign_outliers(strange: Strangeness, labels: NDArray[np.int64]) -> list[Outlier]:
    """Return the images that are far from their class, named by whether they are near another."""
    return [
        Outlier(
            index,
            "foreign" if strange.any[index] >= STRANGE / 2 else "unlike its class",
            float(strange.score[index]),
            float(strange.distance[index]),
            int(labels[index]),
        )
        for index in np.flatnonzero(strange.score >= STRANGE).tolist()
    ]


@dataclass(frozen=True)
class _Measure:
    """Values [N] of a kind of outlier and a scale on which larger is odder and differences are ratios."""

    values: Values
    scale: Values
    smallest: float = 0.1
    factor: float = _NOTICEABLE


def measured(collection: Collection) -> Mapping[str, _Measure]:
    """Return what each kind but the foreign ones is judged by.

    Blur takes more from the second derivative than from the first: their ratio tells it from a plain background, which
    has little of both.
    """
    measures = {
        name: collection.measure(name).astype(np.float64) for name in ("brightness", "contrast", "sharpness", "detail")
    }
    light, contrast, sharp, detail = measures.values()
    width, height = (
        np.array([getattr(header, side) or np.nan for header in collection.headers], np.float64)
        for side in ("width", "height")
    )
    spread, other_tones = tones(collection.thumbnails)
    ratio, area = width / height, width * height
    return {
        "one colour": _Measure(spread, -spread),
        "nearly empty": _Measure(other_tones, -np.log(other_tones + 0.005), factor=3.0),
        "low contrast": _Measure(contrast, -np.log(contrast + 1)),
        "dark": _Measure(light, -np.log(light + 4)),
        "bright": _Measure(light, -np.log(259 - light)),
        "blurred": _Measure(sharp, -np.log((sharp + 0.25) / (detail + 0.25) ** 0.85), factor=1.5),
        "wide": _Measure(ratio, np.log(ratio)),
        "tall": _Measure(ratio, -np.log(ratio)),
        "tiny": _Measure(area, -np.log(area) / 2),
    }


def odd_outliers(measures: Mapping[str, _Measure], labels: NDArray[np.int64]) -> list[Outlier]:
    """Return the images whose measures are far from those of the others.

    An image of one colour is nothing else. Where at least half of a class has one colour, that is what it shows.
    """
    found: list[Outlier] = []
    spread = measures["one colour"].values
    plain_N = spread < _ONE_COLOUR
    for label in np.unique(labels):
        own = labels == label
        if 2 * plain_N[own].sum() >= own.sum() and own.sum() > 1:
            plain_N[own] = False
    for index in np.flatnonzero(plain_N).tolist():
        found.append(Outlier(index, "one colour", float("inf"), float(spread[index]), int(labels[index])))
    for kind, one in measures.items():
        if kind == "one colour":
            continue
        scores = excess(one.scale, labels, smallest=one.smallest)
        away = one.scale - np.nanmedian(one.scale) if np.isfinite(one.scale).any() else scores
        odd = (scores >= ODD) & (away >= np.log(one.factor)) & ~plain_N
        for index in np.flatnonzero(odd).tolist():
            found.append(Outlier(index, kind, float(scores[index]), float(one.values[index]), int(labels[index])))
    return found
