"""The nearest images that bear another label than an image.

Shapes: N images, D features, n some images.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from cnn_tl.doctor.labels.units import Indices
from cnn_tl.heads.arrays import HostArrays

NEAREST = 5
ROWS = 256
"""Images whose cosines to all others are held at once, by each thread."""


def nearest_disagreeing(
    features_ND: NDArray[np.float32], labels_N: Indices, images_n: Indices
) -> dict[int, tuple[int, ...]]:
    """Return the most similar images with another label, by cosine, the nearest first, at most 5 for each image."""
    from threadpoolctl import threadpool_limits

    lengths_N = np.sqrt(np.vecdot(features_ND, features_ND))
    directions_ND = features_ND / np.maximum(lengths_N, 1e-30)[:, None]
    count = min(NEAREST, len(labels_N))

    def of(own: Indices) -> list[tuple[int, ...]]:
        cosines_nN = directions_ND[own] @ directions_ND.T
        cosines_nN[labels_N[own, None] == labels_N] = -2
        best = np.argpartition(cosines_nN, -count, axis=1)[:, -count:]
        values = np.take_along_axis(cosines_nN, best, 1)
        order = np.lexsort((best, -values), axis=1)
        best, values = np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
        return [tuple(row[there].tolist()) for row, there in zip(best, values > -2, strict=True)]

    blocks = [images_n[start : start + ROWS] for start in range(0, len(images_n), ROWS)]
    with threadpool_limits(1, user_api="blas"), closing(HostArrays()) as arrays:
        found = [nearest for block in arrays.map(of, blocks) for nearest in block]
    return dict(zip(images_n.tolist(), found, strict=True))
