"""Fits how far features lie outside what training showed, and the distances of images that were held out of the fit.

The covariance within classes is shrunk towards a multiple of the identity by OAS (Chen et al. 2010, "Shrinkage
algorithms for MMSE covariance estimation", eq. 23), which unlike the shrinkage of Ledoit and Wolf needs only sums.

Shapes: N images, n of them held out, D features, K classes, R axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.distance import AT_ONCE, FeatureDistance, Features, Floats, power_normalised

AXES = 64
"""The most directions of the covariance that are kept: 16 cost 0.002 of mean AUROC, and 256 gained 0.001."""

_LEAST_VARIANCE = 1e-3
"""The least variance within classes, summed over the features, which is 0.2 to 0.4 for trained networks: that of equal
images is rounding error."""

_SMALL = 512
"""Up to this size, all eigenvectors of a matrix cost less than the leading ones of it by iteration."""


@dataclass
class Moments:
    """Sums over power-normalised features, from which `fit_distance` fits; batches are added one by one.

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

    def without(self, x_ND: Floats, labels_N: NDArray[np.int64]) -> Moments:
        """Return the moments without some images that were added, given their power-normalised features."""
        rest = Moments(self.num_classes, self.num_features)
        rest.add(x_ND, labels_N)
        for name in ("counts", "sums", "products"):
            setattr(rest, name, getattr(self, name) - getattr(rest, name))
        return rest

    def add(self, x_ND: Floats, labels_N: NDArray[np.int64]) -> None:
        """Add images by their power-normalised features."""
        if not len(x_ND):
            return
        order = np.argsort(labels_N, kind="stable")
        classes, starts, counts = np.unique(labels_N[order], return_index=True, return_counts=True)
        self.counts[classes] += counts
        for start in range(0, len(x_ND), AT_ONCE):
            some_ND = x_ND[start : start + AT_ONCE]
            self.products += some_ND.T @ some_ND
        for k, start, count in zip(classes, starts, counts, strict=True):
            self.sums[k] += x_ND[order[start : start + count]].sum(0, dtype=np.float64)


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
        whole, held_out_n = _held_out(power_normalised(features_ND), labels_N, num_classes, images_n, groups_N)
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
        moments.add(x_ND, labels_N)
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
            held_out_n[held_m] = _distance_of(spread).of_normalised(x_ND[own])
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
