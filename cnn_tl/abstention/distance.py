"""How far features lie outside what training showed: Mahalanobis distance to the nearest class mean, kept small.

Features are brought to unit length, since their length says more about contrast and size than about content. Each
class has its mean, and all share one covariance within classes (Lee et al. 2018, "A simple unified framework for
detecting out-of-distribution samples and adversarial attacks", sec. 2.1), shrunk towards a multiple of the identity
by OAS (Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation", eq. 23), which unlike that of Ledoit
and Wolf needs only sums. Of the covariance, the AXES directions with the largest variance are kept; along all others
it is constant.

Shapes: N images, D features, K classes, R axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Features = NDArray[np.floating[Any]]

AXES = 64
"""The most directions of the covariance that are kept: 16 cost 0.005 of mean AUROC, and 256 or all gained 0.001."""

UNKNOWN_SHARE = 0.01
"""The share of known images beyond distance 1."""

_SHORTEST = 1e-12
"""Features shorter than this, as those of a black image, count as zero."""

_LEAST_VARIANCE = 1e-3
"""The least variance within classes, summed over the features: that of equal images is rounding error."""

_LEAST_SCALE = 0.5
"""The least scale of a distance, which is about 1 within classes unless their images are equal."""

LEAST_SQUARE = 0.01
"""The least d_k: below, where the terms cancel, the root would show the rounding of float32. The usual size is 1."""

_AT_ONCE = 4_096
"""Images whose distances are computed together."""

_TAIL, _LEAST_TAIL = 0.2, 4
"""The share of images, and their least number, from whose distances the upper tail is estimated."""

_SMALL = 512
"""Up to this size, all eigenvectors of a matrix cost less than the leading ones of it by iteration."""


def unit_length(features_ND: Features) -> Floats:
    """Return features of length 1, float32; those of length 0 stay 0."""
    x_ND = np.asarray(features_ND, np.float32)
    lengths_N = np.sqrt(np.vecdot(x_ND, x_ND))
    return np.asarray(x_ND / np.maximum(lengths_N, np.float32(_SHORTEST))[:, None], np.float32)


@dataclass
class Moments:
    """Sums over unit-length features, from which `fit_distance` fits; batches are added one by one.

    Attributes:
        counts: [K], images of each class. sums: [K, D]. products: [D, D], the sum of x x' over all images.
    """

    num_classes: int
    num_features: int
    counts: NDArray[np.int64] = field(init=False)
    sums: NDArray[np.float64] = field(init=False)
    products: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.num_classes, np.int64)
        self.sums = np.zeros((self.num_classes, self.num_features))
        self.products = np.zeros((self.num_features, self.num_features))

    def add(self, features_ND: Features, labels_N: NDArray[np.int64]) -> None:
        """Add images by their features, of any length, and labels."""
        self._add_unit(unit_length(features_ND), np.asarray(labels_N))

    def merge(self, other: Moments) -> None:
        """Add the images of another."""
        self.counts += other.counts
        self.sums += other.sums
        self.products += other.products

    def without(self, x_ND: Floats, labels_N: NDArray[np.int64]) -> Moments:
        """Return the moments without some images that were added, given their unit-length features."""
        rest = Moments(self.num_classes, self.num_features)
        rest._add_unit(x_ND, labels_N)
        for name in ("counts", "sums", "products"):
            setattr(rest, name, getattr(self, name) - getattr(rest, name))
        return rest

    def _add_unit(self, x_ND: Floats, labels_N: NDArray[np.int64]) -> None:
        if not len(x_ND):
            return
        order = np.argsort(labels_N, kind="stable")
        classes, starts, counts = np.unique(labels_N[order], return_index=True, return_counts=True)
        self.counts[classes] += counts
        for start in range(0, len(x_ND), _AT_ONCE):
            some_ND = x_ND[start : start + _AT_ONCE]
            self.products += some_ND.T @ some_ND
        for k, start, count in zip(classes, starts, counts, strict=True):
            self.sums[k] += x_ND[order[start : start + count]].sum(0, dtype=np.float64)


@dataclass(frozen=True)
class FeatureDistance:
    """The distance of features to what training showed.

    With x the features of an image at unit length (x / max(|x|, 1e-12)), m_k the mean of class k and a_r the axes, the
    distance is sqrt(max(LEAST_SQUARE, min over k of d_k)) / scale, where

        d_k = rest |x - m_k|^2 + sum over r of (weights_r - rest) (a_r . (x - m_k))^2

    Multiplied out, only a linear layer of x has many terms: with p_r = a_r . x, s_k = layer_k . x and the constants
    offsets_k, which `layer` [K, D] and `offsets` [K] give,

        d_k = rest |x|^2 + sum over r of (weights_r - rest) p_r^2 - 2 s_k + offsets_k

    Take `centred`'s mean from x and from all m_k before that: else terms of the size of rest cancel. Even then float16
    does not suffice.

    Attributes:
        means: [K, D], of the unit-length features of each class; that of another for a class without images.
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
    def _centred(self) -> tuple[Floats, FeatureDistance]:
        mean_D = self.means.mean(0)
        return mean_D, replace(self, means=self.means - mean_D)

    def centred(self) -> tuple[Floats, FeatureDistance]:
        """Return the mean m of all classes [D], and the distance of x - m, where x is an image at unit length.

        Where features differ little between images, the terms of the formula cancel, and float32 loses digits;
        without their mean the terms are as small as the result.
        """
        return self._centred

    def __call__(self, features_ND: Features) -> Floats:
        """Return the distance of each image, float32 [N]; it does not depend on the other images.

        Args:
            features_ND: the input of the classifier, of any length.
        """
        distances_N = np.empty(len(features_ND), np.float32)
        for start in range(0, len(features_ND), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            distances_N[some] = self._of_unit(unit_length(features_ND[some]))
        return distances_N

    def _of_unit(self, x_ND: Floats) -> Floats:
        mean_D, centred = self._centred
        y_ND = x_ND.astype(np.float64) - mean_D  # in float32 the order of a sum, which depends on N, would show
        along_NR = y_ND @ self.axes.T
        nearest_N = (centred.offsets - 2 * (y_ND @ centred.layer.T)).min(1)
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


def fit_distance(moments: Moments) -> FeatureDistance:
    """Fit the distance from sums over the images; its scale is 1: the root mean square within classes is about 1."""
    return _distance_of(_spread_of(moments))


def fit_with_held_out(
    features_ND: Features,
    labels_N: NDArray[np.int64],
    num_classes: int,
    images_n: NDArray[np.int64] | None = None,
    groups_N: NDArray[np.int64] | None = None,
) -> tuple[FeatureDistance, Floats]:
    """Fit the distance, with a scale by its held-out images; return these distances too, in units of that scale.

    Without holding out, distances of few images in many dimensions are far too small: the covariance knows the images.
    So folds of them, 10 or for many images 5, are held out of fits on all others.

    Args:
        features_ND: the input of the classifier, of any length.
        images_n: which images are held out; None: all.
        groups_N: the group of each image, such as near-duplicates; a group lies in one fold.

    Returns:
        The distance; and for each of images_n its distance by a fit without it: to the other classes, if no other image
        of its own was in that fit, which is rather too far, so that no more known images are called unknown than is
        promised. NaN if the fit had no image at all.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):  # the same bits on any machine, and no threads that wait by turning
        whole, held_out_n = _held_out(unit_length(features_ND), labels_N, num_classes, images_n, groups_N)
    distance = _distance_of(whole).scaled_to(held_out_n)
    return distance, held_out_n / np.float32(distance.scale)


def _held_out(
    x_ND: Floats,
    labels_N: NDArray[np.int64],
    num_classes: int,
    images_n: NDArray[np.int64] | None,
    groups_N: NDArray[np.int64] | None,
) -> tuple[_Spread, Floats]:
    """Return the spread of all images, and distances of scale 1 as `fit_with_held_out` does."""
    images_n = np.arange(len(x_ND)) if images_n is None else images_n
    fold_n = _folds(labels_N[images_n], None if groups_N is None else groups_N[images_n])
    moments = Moments(num_classes, x_ND.shape[1]) if len(x_ND) > _SMALL else None
    if moments is not None:
        moments._add_unit(x_ND, labels_N)
    whole = _spread_of_rows(x_ND, labels_N, num_classes) if moments is None else _spread_of(moments)
    held_out_n = np.full(len(images_n), np.nan, np.float32)
    for fold in range(int(fold_n.max(initial=-1)) + 1):
        held_m = np.flatnonzero(fold_n == fold)
        own = images_n[held_m]
        if moments is None:
            fitted_N = np.ones(len(x_ND), np.bool_)
            fitted_N[own] = False
            spread = _spread_of_rows(x_ND[fitted_N], labels_N[fitted_N], num_classes) if fitted_N.any() else None
        else:
            others = moments.without(x_ND[own], labels_N[own])
            spread = _spread_of(others, whole.searched) if others.counts.any() else None
        if spread is not None:
            held_out_n[held_m] = _distance_of(spread)._of_unit(x_ND[own])
    return whole, held_out_n


FOLDS, FEW_IMAGES, FOLDS_OF_FEW = 5, 1_000, 10


def _folds(labels_n: NDArray[np.int64], groups_n: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return a fold for each image: images, or groups by the class of their first image, are dealt class by class."""
    folds = FOLDS if len(labels_n) > FEW_IMAGES else FOLDS_OF_FEW
    shuffled_n = np.random.default_rng(0).permutation(len(labels_n))
    groups_n = np.arange(len(labels_n)) if groups_n is None else groups_n
    _, first_g, group_n = np.unique(groups_n, return_index=True, return_inverse=True)
    order_g = np.lexsort((shuffled_n[first_g], labels_n[first_g]))
    fold_g = np.empty(len(first_g), np.int64)
    fold_g[order_g] = np.arange(len(first_g)) % folds
    return fold_g[group_n]


@dataclass(frozen=True)
class _Spread:
    """Means, and the covariance within classes along and besides its leading axes.

    Attributes:
        searched: [B, D], the space in which the axes were found, from which a search in a similar matrix may start.
    """

    means: Features
    axes: Floats
    weights: Features
    rest: float
    searched: Floats


def _distance_of(spread: _Spread) -> FeatureDistance:
    """Return the distance in numbers that float16 holds, so that storing them changes nothing."""
    means, axes = (array.astype(np.float16).astype(np.float32) for array in (spread.means, spread.axes))
    return FeatureDistance(means, axes, spread.weights.astype(np.float32), spread.rest, 1.0)


def _means(moments: Moments) -> NDArray[np.float64]:
    means_KD = moments.sums / np.maximum(moments.counts, 1)[:, None]
    means_KD[moments.counts == 0] = means_KD[np.argmax(moments.counts > 0)]
    return means_KD


def _spread_of(moments: Moments, start_BD: Floats | None = None) -> _Spread:
    """Return the spread within classes; around one mean, if no class has two images."""
    counts_K, means_KD, features = moments.counts, _means(moments), moments.num_features
    freedom = int(counts_K.sum() - (counts_K > 0).sum())
    centres_CD, sizes_C = means_KD, counts_K
    if not freedom:
        sizes_C = np.maximum(counts_K.sum(keepdims=True), 1)
        centres_CD, freedom = moments.sums.sum(0, keepdims=True) / sizes_C, max(int(sizes_C[0]) - 1, 1)
    weighted_CD = centres_CD * np.sqrt(sizes_C)[:, None]
    scatter_DD = (moments.products - weighted_CD.T @ weighted_CD).astype(np.float32)
    values_R, axes_RD, searched_BD = _leading(scatter_DD, min(AXES, freedom, features), start_BD)
    squares = float(np.vecdot(scatter_DD, scatter_DD).sum())
    weights_R, rest = _precision(values_R, float(np.trace(scatter_DD)), squares, freedom, features)
    return _Spread(means_KD, axes_RD, weights_R, rest, searched_BD)


def _spread_of_rows(x_ND: Floats, labels_N: NDArray[np.int64], num_classes: int) -> _Spread:
    """Return what `_spread_of` does for the moments of few images, by their [N, N] products instead."""
    counts_K = np.bincount(labels_N, minlength=num_classes)
    sums_KD = (np.arange(num_classes)[:, None] == labels_N).astype(np.float32) @ x_ND
    means_KD = sums_KD / np.maximum(counts_K, 1).astype(np.float32)[:, None]
    means_KD[counts_K == 0] = means_KD[np.argmax(counts_K > 0)]
    freedom = int(counts_K.sum() - (counts_K > 0).sum())
    centred_ND = x_ND - (means_KD[labels_N] if freedom else x_ND.mean(0))
    freedom = freedom or max(len(x_ND) - 1, 1)
    products_NN = (centred_ND @ centred_ND.T).astype(np.float64)
    values_N, vectors_NN = np.linalg.eigh(products_NN)
    count = min(AXES, freedom, x_ND.shape[1], int((values_N > max(values_N[-1] * 1e-6, 1e-9)).sum()))
    values_R, vectors_RN = values_N[::-1][:count], vectors_NN.T[::-1][:count]
    axes_RD = (vectors_RN / np.sqrt(values_R)[:, None]).astype(np.float32) @ centred_ND
    squares = float(np.vecdot(products_NN, products_NN).sum())
    weights_R, rest = _precision(values_R, float(np.trace(products_NN)), squares, freedom, x_ND.shape[1])
    return _Spread(means_KD, axes_RD, weights_R, rest, axes_RD)


def _precision(
    values_R: Features, trace: float, squares: float, freedom: int, features: int
) -> tuple[NDArray[np.float64], float]:
    """Return the precision along the axes and along the rest, of the covariance that OAS shrinks; times 1 / D.

    Args:
        values_R: eigenvalues of the scatter. trace: of the scatter. squares: the trace of its square.
    """
    freedom = max(freedom, 1)
    values_R = np.maximum(values_R.astype(np.float64), 0) / freedom
    trace = max(trace / freedom, _LEAST_VARIANCE, float(values_R.sum()))
    squares = max(squares / freedom**2, trace**2 / features)
    shrinkage, mean = 1.0, trace / features
    if squares > mean * trace * (1 + 1e-9):
        top = (1 - 2 / features) * squares + trace**2
        shrinkage = min(1.0, top / ((freedom + 1 - 2 / features) * (squares - mean * trace)))
    left = features - len(values_R)
    rest_variance = (1 - shrinkage) * max(trace - float(values_R.sum()), 0) / max(left, 1) + shrinkage * mean
    weights_R = 1 / np.maximum((1 - shrinkage) * values_R + shrinkage * mean, rest_variance)
    return weights_R / features, 1 / (rest_variance * features)


def _leading(matrix_DD: Floats, count: int, start_BD: Floats | None = None) -> tuple[Floats, Floats, Floats]:
    """Return the largest eigenvalues [R] of a symmetric matrix, their vectors [R, D], and the space searched.

    Large matrices by subspace iteration (Halko et al. 2011, "Finding structure with randomness", alg. 4.4): of close
    eigenvalues, any axes among theirs will do here.

    Args:
        start_BD: a space near that of the vectors, as of almost the same matrix.
    """
    if len(matrix_DD) <= _SMALL:
        values, vectors = np.linalg.eigh(matrix_DD.astype(np.float64))
        found_BD = np.ascontiguousarray(vectors[:, ::-1][:, :count].T, np.float32)
        return values[::-1][:count].astype(np.float32), found_BD, found_BD
    space_DB = _start(len(matrix_DD), count + 16) if start_BD is None else start_BD.T
    for _ in range(8 if start_BD is None else 3):
        space_DB = np.linalg.qr(matrix_DD @ space_DB)[0]
    values, vectors = np.linalg.eigh((space_DB.T @ (matrix_DD @ space_DB)).astype(np.float64))
    found_BD = (space_DB @ vectors[:, ::-1].astype(np.float32)).T
    return values[::-1][:count].astype(np.float32), np.ascontiguousarray(found_BD[:count]), found_BD


def _start(features: int, count: int) -> Floats:
    return np.random.default_rng(0).standard_normal((features, min(count, features)), np.float32)
