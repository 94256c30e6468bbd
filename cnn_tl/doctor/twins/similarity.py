"""Compares two aligned images over what they share.

Shapes: P pairs, G the side of the grid.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import default_workers
from cnn_tl.doctor.twins.alignment import correlation, refine, warped
from cnn_tl.doctor.twins.search import GRID, integral, search

Floats = NDArray[np.float32]
Thumbnails = NDArray[np.uint8]

AT_ONCE = 64
"""Pairs of a block, so that it stays in the processor's cache."""
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def planes(thumbnails: NDArray[np.uint8]) -> Floats:
    """Return thumbnails [N, S, S, 3] as luminance and two colour differences on the grid, [N, 3, G, G], 0 to 1."""
    count, side = thumbnails.shape[:2]
    block = side // GRID
    rows = thumbnails.reshape(count, GRID, block, side, 3).sum(2, dtype=np.float32)
    rgb = rows.reshape(count, GRID, GRID, block, 3).sum(3) / np.float32(255 * block * block)
    luminance = rgb @ GREY
    return np.stack([luminance, rgb[..., 0] - luminance, rgb[..., 2] - luminance], 1)


MEASURES = ("luminance", "detail", "local", "colour", "tint", "overlap", "distortion", "light")


@dataclass(frozen=True)
class Compared:
    """What a comparison of P pairs found.

    Attributes:
        measures: MEASURES, [P, 8].
        maps: from pixels (x, y, 1) of the first to pixels of the second, both centred on the grid, [P, 2, 3].
        mirrored: whether the second is mirrored before, [P].
    """

    measures: Floats
    maps: Floats
    mirrored: NDArray[np.bool_]


def compared(thumbnails: Thumbnails, pairs: NDArray[np.int64]) -> Compared:
    """Align and compare pairs of thumbnails, [P, 2], of which there is at least one; in threads, by blocks."""
    parts = [pairs[start : start + AT_ONCE] for start in range(0, len(pairs), AT_ONCE)]
    with ThreadPoolExecutor(default_workers(), thread_name_prefix="twins") as threads:
        found = list(threads.map(lambda part: _compared(*(planes(thumbnails[side]) for side in part.T)), parts))
    columns = zip(*((one.measures, one.maps, one.mirrored) for one in found), strict=True)
    return Compared(*(np.concatenate(column) for column in columns))


def _compared(first_PCGG: Floats, second_PCGG: Floats) -> Compared:
    start = search(first_PCGG[:, 0], second_PCGG[:, 0])
    second_PCGG = np.where(start.mirrored[:, None, None, None], second_PCGG[..., ::-1], second_PCGG)
    maps = refine(first_PCGG[:, 0], second_PCGG[:, 0], start.maps)
    return Compared(compare(first_PCGG, second_PCGG, maps), maps, start.mirrored)


def compare(first_PCGG: Floats, second_PCGG: Floats, maps: Floats) -> Floats:
    """Compare two images over their overlap, [P, 8]: MEASURES.

    Correlations of luminance, of its gradients, of luminance in small windows, and of colour differences; the
    distance of the mean colours; the overlap as a part of the
    image of which less is outside it; how far the map is from a shift
    and a scale; the difference of the mean or the deviation of luminance, whichever is larger.
    `second` is mirrored already where it should be.
    """
    count = len(first_PCGG)
    seen, exists = warped(second_PCGG, maps)
    weight = exists.astype(np.float32)
    a, b = first_PCGG.reshape(count, 3, -1), seen
    luminance = correlation(a[:, 0], b[:, 0], weight)
    square = weight.reshape(count, GRID, GRID)
    inner = square[:, 1:-1, 1:-1] * square[:, :-2, 1:-1] * square[:, 2:, 1:-1]
    inner = (inner * square[:, 1:-1, :-2] * square[:, 1:-1, 2:]).reshape(count, -1)
    gradients = [_gradients(x[:, 0].reshape(count, GRID, GRID)) for x in (a, b)]
    detail = _uncentred(gradients[0], gradients[1], np.tile(inner, 2))
    local = _local(a[:, 0].reshape(count, GRID, GRID), b[:, 0].reshape(count, GRID, GRID), square)
    twice = np.concatenate([weight, weight], 1)
    total = weight.sum(1)[:, None, None] + 1e-6
    mean_a, mean_b = ((x * weight[:, None]).sum(2, keepdims=True) / total for x in (a, b))
    centred = [(x - mean)[:, 1:].reshape(count, -1) for x, mean in ((a, mean_a), (b, mean_b))]
    colour = _uncentred(centred[0], centred[1], twice)
    tint = np.abs(mean_a - mean_b)[:, 1:, 0].sum(1)
    linear = maps[:, :, :2]
    scale = np.sqrt(np.abs(np.linalg.det(linear))) + 1e-6
    distortion = np.abs(linear / scale[:, None, None] - np.eye(2, dtype=np.float32)).sum((1, 2))
    overlap = weight.mean(1) * np.maximum(1, scale**2)
    spread_a, spread_b = (
        np.sqrt((centre[:, 0] ** 2 * weight).sum(1) / total[:, 0, 0]) for centre in (a - mean_a, b - mean_b)
    )
    light = np.maximum(np.abs(mean_a - mean_b)[:, 0, 0], np.abs(spread_a - spread_b))
    measures = [luminance, detail, local, colour, tint, overlap, distortion, light]
    return np.stack(measures, 1).astype(np.float32)


def _gradients(images: Floats) -> Floats:
    along_x = images[:, 1:-1, 2:] - images[:, 1:-1, :-2]
    along_y = images[:, 2:, 1:-1] - images[:, :-2, 1:-1]
    return np.concatenate([along_x.reshape(len(images), -1), along_y.reshape(len(images), -1)], 1)


def _uncentred(a: Floats, b: Floats, weight: Floats, floor: float = 1e-4) -> Floats:
    total = weight.sum(1) + 1e-6
    square_a, square_b = (weight * a * a).sum(1) / total, (weight * b * b).sum(1) / total
    return np.asarray((weight * a * b).sum(1) / total / (np.sqrt(square_a * square_b) + floor), np.float32)


def _local(a: Floats, b: Floats, weight: Floats, window: int = 7) -> Floats:
    """Return the correlation within windows, averaged by how much both vary there."""
    count = np.maximum(_box(weight, window), 1e-3)
    mean_a, mean_b = _box(a * weight, window) / count, _box(b * weight, window) / count
    variance_a = np.maximum(_box(a * a * weight, window) / count - mean_a**2, 0)
    variance_b = np.maximum(_box(b * b * weight, window) / count - mean_b**2, 0)
    covariance = _box(a * b * weight, window) / count - mean_a * mean_b
    full = (count > 0.6 * window * window).astype(np.float32)
    strength = np.sqrt(variance_a * variance_b)
    ncc = covariance / (strength + 1e-4)
    weight_w = full * np.sqrt(strength)
    return np.asarray((ncc * weight_w).sum((1, 2)) / (weight_w.sum((1, 2)) + 1e-6), np.float32)


def _box(images: Floats, window: int) -> Floats:
    sums = integral(images)
    rows = sums[:, window:] - sums[:, :-window]
    return np.asarray(rows[:, :, window:] - rows[:, :, :-window])
