"""What was done to an image to make its twin.

Shapes: P pairs, G the side of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnn_tl.doctor.headers import Header
from cnn_tl.doctor.twins.similarity import MEASURES, Compared

NEAR_KINDS = ("mirrored", "rotated", "cropped", "recoloured", "rescaled", "recompressed", "near")
_CLEAR = 0.9
"""Correlation of luminance and of local detail below which nothing is said about how: the pair is "near"."""
_TURNED = 1.5
"""Degrees."""
_MOVED = 0.7
"""Pixels of the grid."""
_SCALED = 0.03
_RECOLOURED = 0.015
"""Distance of mean colours; or the difference of a mean or a deviation of luminance, of 1."""


def kinds_of(found: Compared, headers: Sequence[tuple[Header, Header]]) -> list[str]:
    """Return the kind of each pair: the first of mirrored, rotated, cropped, recoloured, rescaled, recompressed.

    "cropped" is any other window of the image, "recoloured" other light or colours, "rescaled" another size,
    "recompressed" none of these. A twin with several changes has the first of them; "near" has none that is clear.
    """
    linear, moved = found.maps[:, :, :2].astype(np.float64), np.abs(found.maps[:, :, 2]).max(1)
    angle = np.degrees(np.arctan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1]))
    scaled = np.abs(np.stack([linear[:, 0, 0], linear[:, 1, 1]], 1) - 1).max(1)
    column = {name: found.measures[:, index] for index, name in enumerate(MEASURES)}
    clear = (column["luminance"] >= _CLEAR) & (column["local"] >= _CLEAR)
    resized = np.array([_resized(*pair) for pair in headers], bool)
    tests = {
        "mirrored": found.mirrored,
        "rotated": np.abs(angle) > _TURNED,
        "cropped": (scaled > _SCALED) | (moved > _MOVED),
        "recoloured": (column["tint"] > _RECOLOURED) | (column["light"] > 2 * _RECOLOURED),
        "rescaled": resized,
    }
    kinds = np.select(list(tests.values()), list(tests), "recompressed")
    return [str(kind) for kind in np.where(clear, kinds, "near")]


def _resized(a: Header, b: Header) -> bool:
    return (a.width, a.height) != (b.width, b.height)
