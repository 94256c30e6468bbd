"""Which classes gain most from more images, as far as that can be told from chance.

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.statistics import compare_paired, wilson_interval

Answers = NDArray[np.bool_]


@dataclass(frozen=True)
class ClassGain:
    """One class.

    Attributes:
        images: judged.
        at_half, at_all: the share of them that is recognised after fits to half as many images, and to most.
        gain: the difference. gain_interval: 95%, for all classes together (Bonferroni's bound, Dunn 1961).
        foretold: the share with twice as many images of every class. foretold_interval: 95%.
    """

    name: str
    images: int
    at_half: float
    at_all: float
    gain: float
    gain_interval: tuple[float, float]
    foretold: float
    foretold_interval: tuple[float, float]

    @property
    def is_certain(self) -> bool:
        """Whether the gain cannot be chance."""
        return self.gain_interval[0] > 0


def class_gains(
    classes: Sequence[str], labels_N: NDArray[np.int64], half_N: Answers, all_N: Answers, relative: float
) -> list[ClassGain]:
    """Return the classes of which an image was judged, the largest expected gain first.

    A class is expected to lose the same share of its errors as all classes together; what it lost in the last doubling
    counts beside that as far as it is certain (a posterior mean under a normal prior).

    Args:
        half_N, all_N: whether each image is recognised after a fit to half of the images, and to most.
        relative: the share of the errors that twice as many images are expected to take away.
    """
    counts_K = np.bincount(labels_N, minlength=len(classes))
    z = NormalDist().inv_cdf(1 - 0.025 / max(int((counts_K > 0).sum()), 1))
    found = [
        _class_gain(name, half_N[labels_N == k], all_N[labels_N == k], relative, z)
        for k, name in enumerate(classes)
        if counts_K[k]
    ]
    return sorted(found, key=lambda one: (one.at_all - one.foretold, one.name))


def _class_gain(name: str, half_n: Answers, all_n: Answers, relative: float, z: float) -> ClassGain:
    images, right = len(all_n), int(all_n.sum())
    paired = compare_paired(half_n, all_n, z=z)
    error = (images - right + 0.5) / (images + 1)
    expected, seen = relative * error, paired.gain * 0.7  # each doubling gains less than the last
    noise = max((paired.interval[1] - paired.interval[0]) / 2 / z, 1e-6) ** 2
    prior = (0.5 * expected + 0.01) ** 2
    gain = min(max((expected * noise + seen * prior) / (noise + prior), 0.0), error)
    spread = 1.96 * np.sqrt(noise * prior / (noise + prior))
    low, high = wilson_interval(right, images)
    return ClassGain(
        name, images, float(half_n.mean()), right / images, paired.gain, paired.interval,
        min(right / images + gain, 1.0),
        (max(low + gain - spread, 0.0), min(high + gain + spread, 1.0)),
    )  # fmt: skip
