"""How much of an image has one tone: all of it, a plain background, or next to nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.doctor.collection import Thumbnails

_ROWS = 512
_BITS = 2  # 64 tones of 4 grey levels


def tones(thumbnails: Thumbnails) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest standard deviation of a channel and the share of pixels without the commonest tone, both [N].

    A tone is a range of 12 grey levels.
    """
    spread, others = np.empty(len(thumbnails)), np.empty(len(thumbnails))
    levels = 256 >> _BITS
    for start in range(0, len(thumbnails), _ROWS):
        block = thumbnails[start : start + _ROWS]
        rows = slice(start, start + len(block))
        spread[rows] = block.reshape(len(block), -1, 3).std(axis=1, dtype=np.float32).max(1)
        luma = (block @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8) >> _BITS
        places = luma.reshape(len(block), -1).astype(np.int64) + levels * np.arange(len(block))[:, None]
        counts = np.bincount(places.ravel(), minlength=levels * len(block)).reshape(len(block), levels)
        three = counts[:, :-2] + counts[:, 1:-1] + counts[:, 2:]
        others[rows] = 1 - three.max(1) / places.shape[1]
    return spread, others
