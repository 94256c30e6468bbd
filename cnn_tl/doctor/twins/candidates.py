"""Pairs of images that are worth comparing: nearest neighbours by features, and by a hash of the pixels.

Shapes: N images, D features, E kept directions, K neighbours, P pairs, S the side of a thumbnail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of
from cnn_tl.doctor.twins.similarity import GREY

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]

BLOCK = 1024
"""Rows that are compared with all others at once, in large folders fewer: never is N x N held."""
_HELD = 2**25
"""Numbers of a block at most."""
DIRECTIONS = 512
"""Kept of whitened features in folders of more than WHOLE images, those of the largest variance."""
WHOLE = 20_000
RIDGE = 0.1
"""Of the mean variance, added to each before the features are whitened."""
HASH_BITS = 64
_SAMPLE = 20_000
_FARTHEST = 6
"""Bits that the hashes of candidates differ in at most."""
_BY_HASH = 2
"""Candidates of an image by each hash."""


def candidates(
    white_NE: Floats | None, codes: tuple[Hashes, Hashes], neighbours: int, sample: int, seed: int
) -> tuple[Ints, Ints, float]:
    """Return pairs to compare, sorted, [P, 2], the rows that are a fair sample of all candidates, and a cut-off.

    All neighbours are candidates. Of more than `most` of them the surest by cosine are compared, and the sample; the
    cut-off is the cosine below which neighbours are not compared, -1 where all are.

    Args:
        white_NE: whitened features; None: too few images for that, and every pair is compared.
        codes: hashes of the images and of their mirrored versions, [N] each.
        sample: how large the sample is at most.
    """
    count = len(codes[0])
    if white_NE is None:
        pairs = np.argwhere(np.triu(np.ones((count, count), bool), 1))
        return pairs, np.arange(len(pairs)), -1.0
    near = by_features(white_NE, neighbours)
    rng = np.random.default_rng(seed_of(seed, "candidates"))
    drawn = near[np.sort(rng.choice(len(near), min(sample, len(near)), replace=False))]
    cut_off = -1.0
    if len(near) > most(count):
        cosines_P = cosines(white_NE, near)
        surest = np.argpartition(-cosines_P, most(count))[: most(count)]
        near, cut_off = near[surest], float(cosines_P[surest].min())
    alike = [by_hash(codes[0], other, _FARTHEST, _BY_HASH) for other in codes]
    pairs = unique(np.concatenate([near, drawn, *alike]))
    keys = pairs @ np.array([count, 1])
    return pairs, np.searchsorted(keys, drawn @ np.array([count, 1])), cut_off


def most(count: int) -> int:
    """Return how many pairs of `count` images are compared at most, apart from a sample and equal hashes."""
    return max(20_000, 2 * count)


def cosines(white_NE: Floats, pairs: Ints) -> Floats:
    """Return the cosine of each pair, [P]."""
    parts = [pairs[start : start + 4 * BLOCK] for start in range(0, len(pairs), 4 * BLOCK)]
    found = [np.einsum("pe,pe->p", white_NE[part[:, 0]], white_NE[part[:, 1]]) for part in parts]
    return np.concatenate([np.empty(0, np.float32), *found])


@dataclass(frozen=True)
class Whitening:
    """Makes features comparable by cosine: root, centred, decorrelated, of unit length.

    In plain features a few directions that all images of a kind share dominate the cosine, so that two images of a
    kind look like twins; decorrelated ones count what is rare.
    """

    mean: Floats
    matrix: Floats

    @classmethod
    def of(cls, features_ND: Floats) -> Whitening:
        """Estimate it from features, from at most 20,000 rows that are evenly spaced."""
        rows = _root(features_ND[:: max(1, len(features_ND) // _SAMPLE)])
        mean = rows.mean(0)
        rows -= mean
        variances, directions = np.linalg.eigh(rows.T @ rows / len(rows))
        variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
        scale = np.sqrt(variances + RIDGE * variances.mean() + np.finfo(np.float32).tiny)
        kept = DIRECTIONS if len(features_ND) > WHOLE else len(scale)
        return cls(mean, np.ascontiguousarray((directions / scale)[:, :kept], np.float32))

    def __call__(self, features_ND: Floats) -> Floats:
        """Return features [N, E] of unit length; zeros where an image is exactly the mean."""
        white = np.empty((len(features_ND), self.matrix.shape[1]), np.float32)
        for start in range(0, len(features_ND), 4 * BLOCK):
            rows = (_root(features_ND[start : start + 4 * BLOCK]) - self.mean) @ self.matrix
            white[start : start + len(rows)] = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)
        return white


def _root(features: Floats) -> Floats:
    return np.sign(features) * np.sqrt(np.abs(features))


def by_features(white_NE: Floats, neighbours: int) -> Ints:
    """Return pairs (lower index, higher index) of each image with its nearest by cosine, sorted, [P, 2]."""
    count = len(white_NE)
    neighbours = min(neighbours, count - 1)
    found = [np.empty((0, 2), np.int64)]
    block = max(1, min(BLOCK, _HELD // max(1, count)))
    for start in range(0, count if neighbours > 0 else 0, block):
        cosine = white_NE[start : start + block] @ white_NE.T
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -2
        near = np.argpartition(cosine, count - neighbours, axis=1)[:, count - neighbours :]
        found.append(np.stack([np.repeat(start + rows, neighbours), near.ravel()], 1))
    return unique(np.concatenate(found))


def unique(pairs: Ints) -> Ints:
    """Return pairs as (lower index, higher index), each once, sorted."""
    ordered = np.sort(pairs, 1)
    base = int(ordered.max(initial=0)) + 1
    keys = np.unique(ordered[:, 0] * base + ordered[:, 1])
    return np.stack(np.divmod(keys, base), 1)


def hashes(thumbnails: NDArray[np.uint8]) -> Hashes:
    """Return a perceptual hash of each image, [N]: the signs of 64 low frequencies of its cosine transform.

    Frequencies 1 to 8 each way, compared with their median (the "pHash" of Zauner, Implementation and benchmarking of
    perceptual image hash functions, 2010, sec. 3.2.1), so that a change of gain or bias leaves it as it is.
    """
    side = thumbnails.shape[1]
    waves = np.cos(np.pi / side * (np.arange(side) + 0.5) * np.arange(1, 9)[:, None]).astype(np.float32)
    found = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), BLOCK):
        low = (waves @ (thumbnails[start : start + BLOCK] @ GREY) @ waves.T).reshape(-1, HASH_BITS)
        bits = low > np.median(low, axis=1, keepdims=True)
        found[start : start + BLOCK] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return found


def by_hash(hashes_N: Hashes, others_N: Hashes, farthest: int, most: int) -> Ints:
    """Return pairs of images whose hashes differ in at most `farthest` bits, the `most` nearest of each image, [P, 2].

    `others` are the hashes of the mirrored images, or `hashes` again.
    """
    found = [np.empty((0, 2), np.int64)]
    block = max(1, min(BLOCK, _HELD // max(1, len(hashes_N))))
    for start in range(0, len(hashes_N), block):
        distance = np.bitwise_count(hashes_N[start : start + block, None] ^ others_N[None])
        rows = np.arange(len(distance))
        distance[rows, start + rows] = HASH_BITS + 1
        for row in np.flatnonzero(distance.min(1) <= farthest):
            near = np.flatnonzero(distance[row] <= farthest)
            near = near[np.argsort(distance[row, near], kind="stable")[:most]]
            found.append(np.stack([np.full(len(near), start + row), near], 1))
    return unique(np.concatenate(found))
