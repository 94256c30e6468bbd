"""Refines how one image lies over another: Gauss-Newton steps on an affine map, gain and bias.

Shapes: P pairs, C channels, G the side of the grid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.doctor.twins.search import GRID

Floats = NDArray[np.float32]

_STEPS = 10
_TRIAL, _HOPEFUL = 2, 0.65
"""After this step, pairs whose correlation is below this take no more steps."""

_AXIS = np.arange(GRID, dtype=np.float32) - (GRID - 1) / 2
_POINTS = np.stack([np.tile(_AXIS, GRID), np.repeat(_AXIS, GRID), np.ones(GRID * GRID, np.float32)])
"""The pixels (x, y, 1) of the grid, from its centre, [3, G * G]."""


def warped(images_PCGG: Floats, maps: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return images [P, C, G * G] as seen through maps from the grid, bilinear, and which pixels exist, [P, G * G]."""
    count, channels = images_PCGG.shape[:2]
    x, y = (maps @ _POINTS).transpose(1, 0, 2) + np.float32((GRID - 1) / 2)
    exists = (x >= 0) & (x <= GRID - 1) & (y >= 0) & (y <= GRID - 1)
    x, y = np.clip(x, 0, GRID - 1.001), np.clip(y, 0, GRID - 1.001)
    left, above = x.astype(np.int64), y.astype(np.int64)
    x, y = x - left, y - above
    at = (np.arange(count)[:, None] * (GRID * GRID) + above * GRID + left).ravel()
    flat = np.ascontiguousarray(images_PCGG.transpose(0, 2, 3, 1)).reshape(-1, channels)
    x, y = x.reshape(-1, 1), y.reshape(-1, 1)
    upper = flat[at] * (1 - x) + flat[at + 1] * x
    lower = flat[at + GRID] * (1 - x) + flat[at + GRID + 1] * x
    return (upper * (1 - y) + lower * y).reshape(count, GRID * GRID, channels).transpose(0, 2, 1), exists


def refine(first_PGG: Floats, second_PGG: Floats, maps: Floats) -> Floats:
    """Improve maps by Gauss-Newton steps on an affine map, gain and bias that minimise the difference of luminance.

    A pair whose correlation over the overlap doesn't rise, or whose map leaves what is plausible, keeps its first map.
    `second` is mirrored already where it should be.
    """
    grad_y, grad_x = np.gradient(second_PGG, axis=(1, 2))
    stack = np.stack([second_PGG, grad_x.astype(np.float32), grad_y.astype(np.float32)], 1)
    target = first_PGG.reshape(len(first_PGG), -1)
    best, start, current = maps.copy(), maps, maps.copy()
    highest = np.full(len(maps), -np.inf, np.float32)
    rows = np.arange(len(maps))
    for step in range(_STEPS + 1):
        seen, exists = warped(stack, current)
        weight = exists.astype(np.float32)
        ncc = correlation(target, seen[:, 0], weight)
        merit = np.arctanh(np.clip(ncc, -0.999, 0.999)) * np.sqrt(weight.sum(1))
        better = (merit > highest[rows]) & _plausible(current, start)
        best[rows[better]], highest[rows[better]] = current[better], merit[better]
        if step == _STEPS:
            break
        current = current + _step(target, seen, weight)
        if step == _TRIAL:
            kept = ncc >= _HOPEFUL
            rows, stack, target = rows[kept], stack[kept], target[kept]
            start, current = start[kept], current[kept]
    return best


def _plausible(maps: Floats, start: Floats) -> NDArray[np.bool_]:
    """Tell which maps are within a third in scale, 20 degrees and 6 pixels of where they began."""
    linear = np.abs(maps[:, :, :2] - start[:, :, :2]).max((1, 2)) < 0.33
    return np.asarray(linear & (np.abs(maps[:, :, 2] - start[:, :, 2]).max(1) < 6))


def _step(target: Floats, seen: Floats, weight: Floats) -> Floats:
    """Return the change of the maps by one damped Gauss-Newton step, [P, 2, 3]."""
    count = len(target)
    value, grad_x, grad_y = seen[:, 0], seen[:, 1], seen[:, 2]
    overlap = weight.sum(1, keepdims=True) + 1e-3
    mean_a, mean_b = (target * weight).sum(1, keepdims=True) / overlap, (value * weight).sum(1, keepdims=True) / overlap
    a, b = (target - mean_a) * weight, (value - mean_b) * weight
    gain = np.clip((a * b).sum(1, keepdims=True) / ((b * b).sum(1, keepdims=True) + 1e-4), 0.2, 5)
    residual = a - gain * b
    scaled = _POINTS / np.array([[GRID / 2], [GRID / 2], [1]], np.float32)
    jacobian = np.empty((count, 8, GRID * GRID), np.float32)
    jacobian[:, 0:3] = (gain * grad_x * weight)[:, None] * scaled
    jacobian[:, 3:6] = (gain * grad_y * weight)[:, None] * scaled
    jacobian[:, 6], jacobian[:, 7] = b, weight
    normal = jacobian @ jacobian.transpose(0, 2, 1)
    damping = 0.01 * np.trace(normal[:, :6, :6], axis1=1, axis2=2) / 6 + 1e-4
    normal += damping[:, None, None] * np.eye(8, dtype=np.float32)
    step = np.linalg.solve(normal, (jacobian @ residual[:, :, None]))[:, :6, 0]
    step = np.clip(step, -1.5, 1.5).reshape(count, 2, 3)
    step[:, :, :2] /= GRID / 2
    return step.astype(np.float32)


def correlation(a: Floats, b: Floats, weight: Floats, floor: float = 1e-4) -> Floats:
    """Return the correlation of [P, n] under weights [P, n]; near 0 where either hardly varies."""
    total = weight.sum(1, keepdims=True) + 1e-6
    a = a - (a * weight).sum(1, keepdims=True) / total
    b = b - (b * weight).sum(1, keepdims=True) / total
    variance_a, variance_b = (weight * a * a).sum(1) / total[:, 0], (weight * b * b).sum(1) / total[:, 0]
    covariance = (weight * a * b).sum(1) / total[:, 0]
    return np.asarray(covariance / (np.sqrt(variance_a * variance_b) + floor), np.float32)
