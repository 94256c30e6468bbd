"""Finds how two images lie over each other: shift, scale and mirroring, by correlation.

Shapes: P pairs, G the side of the grid that images are compared on, V that of a view of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

GRID = 32
SIDES = (32, 27, 22)
"""Of an image that is searched for in the other: as it is, and shrunk, as one would be that shows more."""
REACH = 12
"""The largest shift that the search tries, in pixels of the grid, each way."""
_PADDED = 48
_VARIANTS = tuple((a, b, mirrored) for a, b in ((0, 0), (0, 1), (1, 0), (0, 2), (2, 0)) for mirrored in (False, True))
"""The sides of the two images, as indices of SIDES, and whether the second is mirrored."""
_LEAST_OVERLAP = 0.4


@dataclass(frozen=True)
class Alignment:
    """How the second image of each pair lies over the first.

    Attributes:
        maps: from pixels (x, y, 1) of the first to pixels of the second, both centred on the grid, [P, 2, 3].
        mirrored: whether the second is mirrored before, [P].
    """

    maps: Floats
    mirrored: NDArray[np.bool_]


def search(first_PGG: Floats, second_PGG: Floats) -> Alignment:
    """Find the shift, scale and mirroring under which two luminances correlate best over their overlap.

    The correlation over rectangles that overlap in part is Padfield's (Masked object registration in the Fourier
    domain, 2012, eq. 3), with sums over rectangles in place of masks. Among overlaps of different size the best is
    the one whose correlation is the least likely by chance: Fisher's z times the root of the overlap.
    """
    views_a, views_b = _views(first_PGG), _views(second_PGG)
    mirrored_b = _views(np.ascontiguousarray(second_PGG[..., ::-1]))
    best = np.full(len(first_PGG), -np.inf, np.float32)
    place = np.zeros((len(first_PGG), 3), np.int64)
    for number, (a, b, mirrored) in enumerate(_VARIANTS):
        ncc, weight = _correlations(views_a[a], (mirrored_b if mirrored else views_b)[b])
        merit = (np.arctanh(np.clip(ncc, -0.99, 0.99)) * weight).reshape(len(ncc), -1)
        at = merit.argmax(1)
        rows = np.arange(len(ncc))
        better = merit[rows, at] > best
        best = np.where(better, merit[rows, at], best)
        shift = np.stack(np.divmod(at, 2 * REACH + 1), 1) - REACH
        place = np.where(better[:, None], np.concatenate([np.full((len(ncc), 1), number), shift], 1), place)
    return Alignment(*_maps(place))


@dataclass(frozen=True)
class _View:
    """One size of P images: their spectrum, and the sums of pixels and squares left, right, above and below."""

    side: int
    spectrum: NDArray[np.complex64]
    sums: Floats
    squares: Floats


def _views(images_PGG: Floats) -> list[_View]:
    return [_view(_shrunk(images_PGG - np.float32(0.5), side), side) for side in SIDES]


def _view(images: Floats, side: int) -> _View:
    spectrum = np.fft.rfft2(images, (_PADDED, _PADDED)).astype(np.complex64)
    return _View(side, spectrum, integral(images), integral(images * images))


def integral(images: Floats) -> Floats:
    """Return sums [P, V+1, V+1] of the pixels above and to the left."""
    sums = np.zeros((len(images), images.shape[1] + 1, images.shape[2] + 1), np.float32)
    np.cumsum(np.cumsum(images, 1), 2, out=sums[:, 1:, 1:])
    return sums


def _shrunk(images: Floats, side: int) -> Floats:
    matrix = _resampling(images.shape[1], side)
    return images if side == images.shape[1] else np.ascontiguousarray(matrix @ images @ matrix.T)


def _resampling(source: int, target: int) -> Floats:
    """Return the matrix [target, source] that resamples with a triangle as wide as a target pixel."""
    scale = source / target
    centres = (np.arange(target) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(source)[None] - centres[:, None]) / scale)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _correlations(a: _View, b: _View) -> tuple[Floats, Floats]:
    """Return the correlation at each shift and the root of its overlap, [P, 2 REACH + 1, 2 REACH + 1].

    A shift (dy, dx) compares pixel (y, x) of `a` with (y - dy, x - dx) of `b`, whose centres coincide at shift 0
    (rounded down).
    """
    offset = (a.side - b.side) // 2
    shifts = np.arange(-REACH, REACH + 1) + offset
    product = np.fft.irfft2(a.spectrum * np.conj(b.spectrum), (_PADDED, _PADDED))
    cross = product[:, shifts % _PADDED][:, :, shifts % _PADDED]
    start, stop = np.maximum(0, shifts), np.maximum(np.minimum(a.side, b.side + shifts), np.maximum(0, shifts) + 1)
    height = stop - start
    count = (height[:, None] * height[None]).astype(np.float32)
    sum_a, square_a = _over(a.sums, start, stop), _over(a.squares, start, stop)
    sum_b, square_b = _over(b.sums, start - shifts, stop - shifts), _over(b.squares, start - shifts, stop - shifts)
    covariance = cross - sum_a * sum_b / count
    variances = np.maximum(square_a - sum_a**2 / count, 0) * np.maximum(square_b - sum_b**2 / count, 0)
    ncc = covariance / (np.sqrt(variances) + 1e-4 * count)
    enough = count >= _LEAST_OVERLAP * min(a.side, b.side) ** 2
    return np.where(enough, ncc, -1).astype(np.float32), np.broadcast_to(np.sqrt(count), ncc.shape)


def _over(sums: Floats, start: Ints, stop: Ints) -> Floats:
    """Return sums over rectangles, from an integral image: rows and columns start to stop."""
    rows = sums[:, stop] - sums[:, start]
    return rows[:, :, stop] - rows[:, :, start]


def _maps(place: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """Turn (variant, dy, dx) [P, 3] into maps [P, 2, 3] and mirroring [P]."""
    sides = np.array([(SIDES[a], SIDES[b]) for a, b, _ in _VARIANTS])[place[:, 0]]
    mirrored = np.array([mirrored for _, _, mirrored in _VARIANTS])[place[:, 0]]
    side_a, side_b = sides[:, 0], sides[:, 1]
    shift = place[:, 1:] + ((side_a - side_b) // 2)[:, None]
    maps = np.zeros((len(place), 2, 3), np.float32)
    # A pixel x of the grid, from its centre, lies at x * side_a / G + (side_a - 1) / 2 in the view of the first.
    maps[:, 0, 0] = maps[:, 1, 1] = side_a / side_b
    centre = (side_a - 1) / 2 - (side_b - 1) / 2
    maps[:, 0, 2] = (centre - shift[:, 1]) * GRID / side_b
    maps[:, 1, 2] = (centre - shift[:, 0]) * GRID / side_b
    return maps, mirrored
