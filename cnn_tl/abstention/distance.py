"""How far features lie outside what training showed: Mahalanobis distance to the nearest class mean, kept small.

Features are power-normalised: of each the root with its sign, then all brought to length 1 (Perronnin et al. 2010,
"Improving the Fisher kernel for large-scale image classification", sec. 3.1). The length says more about contrast and
size than about content, and roots keep few large features from drowning the others: without them, four times as many
photographs of flowers lay as near to dishes as dishes do. Each class has its mean, and all share one covariance within
classes (Lee et al. 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks", sec. 2.1). Of it, the directions with the largest variance are kept; along all others it is constant.
`distance_fit.py` estimates both.

Shapes: N images, D features, K classes, R axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Features = NDArray[np.floating[Any]]

UNKNOWN_SHARE = 0.01
"""The share of known images beyond distance 1."""

_SHORTEST = 1e-12
"""Features shorter than this, as those of a black image, count as zero."""

_LEAST_SCALE = 0.5
"""The least scale of a distance, which is about 1 within classes unless their images are equal."""

LEAST_SQUARE = 0.01
"""The least d_k: below, where the terms cancel, the root would show the rounding of float32. The usual size is 1."""

AT_ONCE = 4_096
"""Images whose distances are computed together."""

_TAIL, _LEAST_TAIL = 0.2, 4
"""The share of images, and their least number, from whose distances the upper tail is estimated."""


def power_normalised(features_ND: Features) -> Floats:
    """Return the roots of features with their signs, brought to length 1, float32; features of length 0 stay 0."""
    f_ND = np.asarray(features_ND, np.float32)
    x_ND = np.sign(f_ND) * np.sqrt(np.abs(f_ND))
    lengths_N = np.sqrt(np.vecdot(x_ND, x_ND))
    return np.asarray(x_ND / np.maximum(lengths_N, np.float32(_SHORTEST))[:, None], np.float32)


@dataclass(frozen=True)
class FeatureDistance:
    """The distance of features to what training showed.

    With f the features of an image, x_d = sign(f_d) sqrt(|f_d|) divided by max(|x|, 1e-12), m_k the mean of class k and
    a_r the axes, the distance is sqrt(max(LEAST_SQUARE, min over k of d_k)) / scale, where

        d_k = rest |x - m_k|^2 + sum over r of (weights_r - rest) (a_r . (x - m_k))^2

    Multiplied out, only a linear layer of x has many terms: with p_r = a_r . x, s_k = layer_k . x and the constants
    offsets_k, which `layer` [K, D] and `offsets` [K] give,

        d_k = rest |x|^2 + sum over r of (weights_r - rest) p_r^2 - 2 s_k + offsets_k

    Take `centred`'s mean from x and from all m_k before that: else terms of the size of rest cancel. Even then float16
    does not suffice.

    Attributes:
        means: [K, D], of the power-normalised features of each class; that of another for a class without images.
        axes: [R, D], orthonormal. weights: [R], the precision along each. rest: that along all other directions.
        scale: the root of d_k at which the distance is 1.
    """

    means: Floats
    axes: Floats
    weights: Floats
    rest: float
    scale: float

    @cached_property
    def layer(self) -> Floats:
        """The means times the precision matrix, [K, D]."""
        means_KD, axes_RD = self.means.astype(np.float64), self.axes.astype(np.float64)
        along_KR = (means_KD @ axes_RD.T) * (self.weights - self.rest)
        return (self.rest * means_KD + along_KR @ axes_RD).astype(np.float32)

    @cached_property
    def offsets(self) -> Floats:
        """The squared length of each mean by the precision matrix, [K]."""
        return np.asarray(np.vecdot(self.means.astype(np.float64), self.layer), np.float32)

    @cached_property
    def centred(self) -> tuple[Floats, FeatureDistance]:
        """The mean m of all classes [D], and the distance of x - m, where x is an image, power-normalised.

        Where features differ little between images, the terms of the formula cancel, and float32 loses digits;
        without their mean the terms are as small as the result.
        """
        mean_D = self.means.mean(0)
        return mean_D, replace(self, means=self.means - mean_D)

    @cached_property
    def _right_sides(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The axes and the layer in float64: converting them for each image would take longer than the products."""
        return self.axes.T.astype(np.float64), self.centred[1].layer.T.astype(np.float64)

    def __call__(self, features_ND: Features) -> Floats:
        """Return the distance of each image, float32 [N]; it does not depend on the other images.

        Args:
            features_ND: the input of the classifier, of any length.
        """
        distances_N = np.empty(len(features_ND), np.float32)
        for start in range(0, len(features_ND), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            distances_N[some] = self.of_normalised(power_normalised(features_ND[some]))
        return distances_N

    def of_normalised(self, x_ND: Floats) -> Floats:
        """Return the distance of each image from power-normalised features."""
        (mean_D, centred), (axes_DR, layer_DK) = self.centred, self._right_sides
        y_ND = x_ND.astype(np.float64) - mean_D  # in float32 the order of a sum, which depends on N, would show
        along_NR = y_ND @ axes_DR
        nearest_N = (centred.offsets - 2 * (y_ND @ layer_DK)).min(1)
        own_N = self.rest * np.vecdot(y_ND, y_ND) + (along_NR**2) @ (self.weights - np.float32(self.rest))
        return np.asarray(np.sqrt(np.maximum(own_N + nearest_N, LEAST_SQUARE)) / self.scale, np.float32)

    def scaled_to(self, held_out_n: Floats) -> FeatureDistance:
        """Return the distance whose 1 is where UNKNOWN_SHARE of known images lie further away.

        With fewer than 99 images, that is estimated from the spread of their distances: no promise, but a yardstick.

        Args:
            held_out_n: distances of images that were not in the fit, by fits of the same scale as this one.
        """
        return replace(self, scale=max(self.scale * distance_limit(held_out_n, UNKNOWN_SHARE), _LEAST_SCALE))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `from_arrays` reads, by name; the large ones as float16, which does not change them."""
        return {
            "means": self.means.astype(np.float16),
            "axes": self.axes.astype(np.float16),
            "weights": self.weights,
            "rest": np.asarray(self.rest, np.float64),
            "scale": np.asarray(self.scale, np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FeatureDistance:
        """Return the distance that `arrays` described.

        Raises:
            KeyError: a name is missing.
        """
        means, axes, weights = (np.asarray(arrays[name], np.float32) for name in ("means", "axes", "weights"))
        return cls(means, axes, weights, float(arrays["rest"]), float(arrays["scale"]))


def unknown_threshold(held_out_n: Floats, share: float) -> float:
    """Return the distance beyond which at most `share` of new known images lie, on average over draws of the images.

    The conformal quantile (Vovk et al. 2005): the ceil((n + 1) (1 - share))-th smallest of n distances. Infinite if
    there are too few images for it, fewer than 1 / share - 1.

    Args:
        held_out_n: distances of images that were not in the fit.
    """
    rank = math.ceil((len(held_out_n) + 1) * (1 - share) - 1e-9)
    return float(np.partition(held_out_n, rank - 1)[rank - 1]) if rank <= len(held_out_n) else math.inf


def distance_limit(held_out_n: Floats, share: float) -> float:
    """Return `unknown_threshold`, or an estimate of it if there are too few images; above 0.

    Args:
        held_out_n: as there; NaN for images whose distance is not known.
    """
    known_n = held_out_n[np.isfinite(held_out_n)]
    if not len(known_n):
        return 1.0
    limit = unknown_threshold(known_n, share)
    return max(_extrapolated(known_n, share) if share and not math.isfinite(limit) else limit, 1e-6)


def _extrapolated(known_n: Floats, share: float) -> float:
    """Return the distance beyond which a share of images lies, smaller than 1 / n, at least the largest distance.

    The excesses of the largest distances over the next one are taken as exponential (peaks over a threshold; Davison
    and Smith 1990, "Models for exceedances over high thresholds", with shape 0). Of 10 to 98 images of six data sets,
    drawn from many, that leaves 0.7% to 2.8% of the others beyond the limit for 1%; the largest distance alone 9% of
    10 images.
    """
    sorted_n = np.sort(known_n).astype(np.float64)
    images = len(sorted_n)
    if images == 1:
        return float(2 * sorted_n[0])
    tail = min(images - 1, max(_LEAST_TAIL, int(images * _TAIL)))
    start = sorted_n[-tail - 1]
    beyond = (sorted_n[-tail:] - start).mean() * math.log((tail + 0.5) / ((images + 1) * share))
    return max(float(sorted_n[-1]), float(start + beyond))
