"""Finds twins: equal files, equal pixels, and near-duplicates with a probability.

Shapes: N images, R of them different, P pairs, V made twins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of
from cnn_tl.doctor.collection import Collection, Thumbnails
from cnn_tl.doctor.twins import candidates
from cnn_tl.doctor.twins.calibration import PRECISION, UNCALIBRATED, Calibration, calibrate, evidence, threshold
from cnn_tl.doctor.twins.groups import equal_bytes, equal_pixels, groups_of
from cnn_tl.doctor.twins.kinds import NEAR_KINDS, kinds_of
from cnn_tl.doctor.twins.similarity import compared
from cnn_tl.doctor.twins.views import CHANGES, changes_of, twin_of

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

KINDS = ("equal bytes", "equal pixels", *NEAR_KINDS)

NEIGHBOURS = 8
"""Of each image, by features, that are candidates."""
MADE = 600
"""Twins that are made to calibrate."""
SAMPLE = 2_000
"""Real pairs that calibrate."""
ENOUGH = 24
"""Different images from which on the features are whitened and a calibration is tried."""
_FLAT = 2.0
"""Standard deviation of luminance, of 255, below which an image shows nothing that could be compared."""


@dataclass(frozen=True)
class Twins:
    """Pairs of images and how sure it is that they are twins.

    Attributes:
        pairs: indices, the lower first, [P, 2]; sorted by score, the highest first. Of images with equal bytes or
            pixels, only the first of each takes part in other pairs, and each later one is paired with it.
        kinds: of each pair, one of KINDS.
        scores: the estimated probability that it is a pair of twins, [P]; 1 for equal ones.
        verified: whether the score reaches the threshold, [P].
        groups: a number for each image; -1: it has no twin, [N]. See `groups.groups_of`.
        threshold: of the score.
        precision: of the verified pairs that are not equal, estimated: the mean of their scores. None: there are
            none, or the folder is too small to calibrate.
        recall: change -> part of the made twins with this change (alone or among others) that would be verified;
            empty without calibration.
        calibrated: whether the scores were calibrated on twins of these images.
    """

    pairs: Ints
    kinds: tuple[str, ...]
    scores: Doubles
    verified: NDArray[np.bool_]
    groups: Ints
    threshold: float
    precision: float | None
    recall: dict[str, float]
    calibrated: bool


@dataclass(frozen=True)
class _Near:
    """Near-duplicates among different images: as in Twins."""

    pairs: Ints
    kinds: tuple[str, ...]
    scores: Doubles
    threshold: float
    precision: float | None
    recall: dict[str, float]
    calibrated: bool


def find_twins(collection: Collection, seed: int = 0) -> Twins:
    """Find twins of all kinds.

    Candidates are the nearest neighbours by decorrelated features and by a perceptual hash; each is aligned and
    compared; a logistic regression, calibrated on made twins of these images against a sample of the real candidates,
    turns that into a probability. Time grows with N^2 in the search for neighbours, otherwise with N.

    Raises:
        BadImageError, ResourceError: an image that is needed cannot be read any more.
    """
    same_bytes = equal_bytes(image.sha256 for image in collection.images)
    different = np.setdiff1d(np.arange(len(collection)), same_bytes[:, 1])
    sizes = [(header.width, header.height) for header in collection.headers]
    same_pixels = equal_pixels(different, collection.thumbnails, sizes, collection.open)
    different = np.setdiff1d(different, same_pixels[:, 1])
    near = _near(collection, different[_contrast(collection.thumbnails, different) >= _FLAT], seed)

    pairs = np.concatenate([same_bytes, same_pixels, near.pairs])
    equal = len(same_bytes) + len(same_pixels)
    scores = np.concatenate([np.ones(equal), near.scores])
    verified = np.concatenate([np.ones(equal, bool), near.scores >= near.threshold])
    kinds = ("equal bytes",) * len(same_bytes) + ("equal pixels",) * len(same_pixels) + near.kinds
    return Twins(
        pairs=pairs,
        kinds=kinds,
        scores=scores,
        verified=verified,
        groups=groups_of(len(collection), pairs[verified]),
        threshold=near.threshold,
        precision=near.precision,
        recall=near.recall,
        calibrated=near.calibrated,
    )


def _contrast(thumbnails: Thumbnails, indices: Ints) -> Doubles:
    """Return the standard deviation of each image's green, [R]."""
    found = [thumbnails[part, :, :, 1].std((1, 2)) for part in np.array_split(indices, len(indices) // 1024 + 1)]
    return np.concatenate(found).astype(np.float64)


def _near(collection: Collection, indices: Ints, seed: int) -> _Near:
    """Find near-duplicates among images of which no two are equal."""
    if len(indices) < 2:
        return _Near(np.empty((0, 2), np.int64), (), np.empty(0), PRECISION, None, {}, calibrated=False)
    thumbnails = collection.thumbnails
    features = collection.features if len(indices) == len(collection) else collection.features[indices]
    enough = len(indices) >= ENOUGH
    white = candidates.Whitening.of(features)
    whitened = white(features)
    codes = (candidates.hashes(thumbnails)[indices], candidates.hashes(thumbnails[:, :, ::-1])[indices])
    pairs, searched, cut_off = candidates.candidates(whitened if enough else None, codes, NEIGHBOURS, SAMPLE, seed)
    found = compared(thumbnails, indices[pairs])
    known = evidence(
        candidates.cosines(whitened, pairs) if enough else np.zeros(len(pairs), np.float32), found.measures
    )
    calibration, made = Calibration(UNCALIBRATED, 0.0), None
    if enough:
        made = _made(collection, indices, white, whitened, cut_off, seed)
        if made.reached.sum() >= ENOUGH:
            calibration = calibrate(made.evidence[made.reached], known[searched])
    calibrated = calibration.logistic is not UNCALIBRATED
    scores = calibration(known)
    limit, precision = threshold(scores)
    order = np.argsort(-scores, kind="stable")
    recall = {} if made is None or not calibrated else made.recall(calibration, limit)
    headers = [collection.headers[index] for index in indices.tolist()]
    kinds = kinds_of(found, [(headers[a], headers[b]) for a, b in pairs.tolist()])
    return _Near(
        pairs=indices[pairs[order]],
        kinds=tuple(kinds[index] for index in order.tolist()),
        scores=scores[order],
        threshold=limit,
        precision=precision if calibrated else None,
        recall=recall,
        calibrated=calibrated,
    )


@dataclass(frozen=True)
class _Made:
    """Made twins: what is known of each with its original, whether a search would meet it, and how it was changed."""

    evidence: Doubles
    reached: NDArray[np.bool_]
    changes: list[tuple[str, ...]]

    def recall(self, calibration: Calibration, limit: float) -> dict[str, float]:
        found = self.reached & (calibration(self.evidence) >= limit)
        with_it = {name: np.array([name in changes for changes in self.changes]) for name in CHANGES}
        return {name: float(found[has].mean()) for name, has in with_it.items() if has.any()}


def _made(
    collection: Collection,
    indices: Ints,
    white: candidates.Whitening,
    whitened: NDArray[np.float32],
    cut_off: float,
    seed: int,
) -> _Made:
    """Make twins of images drawn at random, several of each if there are few.

    Args:
        cut_off: the cosine below which neighbours are not compared.
    """
    rng = np.random.default_rng(seed_of(seed, "made twins"))
    rounds = [rng.permutation(len(indices)) for _ in range(-(-MADE // len(indices)))]
    originals = np.concatenate(rounds)[:MADE]
    images = [
        twin_of(collection.open(int(indices[original])), seed, number) for number, original in enumerate(originals)
    ]
    features, thumbnails = collection.view_of(images)
    cosines = white(features) @ whitened.T
    numbers = np.arange(len(originals))
    own = cosines[numbers, originals]
    reached = ((cosines > own[:, None]).sum(1) < NEIGHBOURS) & (own >= cut_off)
    both = np.concatenate([thumbnails, collection.thumbnails[indices[originals]]])
    pairs = np.stack([numbers, numbers + len(numbers)], 1)
    pairs[::2] = pairs[::2, ::-1]  # neither side is always the changed one
    found = compared(both, pairs)
    return _Made(evidence(own, found.measures), reached, [changes_of(seed, int(number)) for number in numbers])
