"""How far features lie from what training showed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn_tl.abstention.distance import (
    LEAST_SQUARE,
    FeatureDistance,
    distance_limit,
    power_normalised,
    unknown_threshold,
)
from cnn_tl.abstention.distance_fit import AXES, Moments, _folds, fit_distance, fit_with_held_out

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
DIMENSIONS = 40


def clouds(images: int, classes: int = 4, dimensions: int = DIMENSIONS, seed: int = 0) -> tuple[Floats, Labels]:
    """Return positive features around means that are the same for every seed, spread most along the first axes."""
    centres = 3 + np.random.default_rng(99).normal(size=(classes, dimensions))
    chance = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    spread = 1 / np.sqrt(1 + np.arange(dimensions))
    features = centres[labels] + spread * chance.normal(size=(images, dimensions))
    return np.maximum(features, 0).astype(np.float32), labels


def moments_of(features: Floats, labels: Labels, classes: int = 4) -> Moments:
    moments = Moments(classes, features.shape[1])
    moments.add(power_normalised(features), labels)
    return moments


def auroc(known: Floats, foreign: Floats) -> float:
    return float((known[:, None] < foreign).mean() + (known[:, None] == foreign).mean() / 2)


def by_definition(distance: FeatureDistance, features: Floats) -> NDArray[np.float64]:
    """Return the distances by the matrix of the docstring's first formula."""
    dimensions = features.shape[1]
    axes = distance.axes.astype(np.float64)
    precision = distance.rest * np.eye(dimensions) + axes.T @ np.diag(distance.weights - distance.rest) @ axes
    gap = power_normalised(features).astype(np.float64)[:, None] - distance.means
    squared = np.einsum("nkd,de,nke->nk", gap, precision, gap).min(1)
    return np.asarray(np.sqrt(squared) / distance.scale, np.float64)


def test_it_is_the_mahalanobis_distance_to_the_nearest_mean() -> None:
    """With all axes and shrinkage by hand, as in Chen et al. (2010), eq. 23."""
    features, labels = clouds(400)
    x = power_normalised(features).astype(np.float64)
    means = np.stack([x[labels == k].mean(0) for k in range(4)])
    centred, freedom = x - means[labels], 400 - 4
    covariance = centred.T @ centred / freedom
    trace, squares = np.trace(covariance), (covariance**2).sum()
    top = (1 - 2 / DIMENSIONS) * squares + trace**2
    shrinkage = top / ((freedom + 1 - 2 / DIMENSIONS) * (squares - trace**2 / DIMENSIONS))
    assert 0 < shrinkage < 0.5
    shrunk = (1 - shrinkage) * covariance + shrinkage * trace / DIMENSIONS * np.eye(DIMENSIONS)
    gap = x[:, None] - means
    squared = np.einsum("nkd,de,nke->nk", gap, np.linalg.inv(shrunk), gap).min(1) / DIMENSIONS
    distance = fit_distance(moments_of(features, labels))
    assert DIMENSIONS < AXES
    assert np.allclose(distance(features), np.sqrt(squared), rtol=3e-2)  # stored as float16
    assert np.sqrt((distance(features) ** 2).mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dimensions", [DIMENSIONS, 600])
def test_the_layer_computes_what_the_definition_says(dimensions: int) -> None:
    features, labels = clouds(900, dimensions=dimensions)
    distance = replace(fit_distance(moments_of(features, labels)), scale=1.7)
    assert len(distance.axes) == min(AXES, dimensions)
    others, _ = clouds(50, dimensions=dimensions, seed=1)
    assert np.allclose(distance(others), by_definition(distance, others), rtol=1e-3)


def test_foreign_images_lie_further_away_than_by_the_nearest_mean_alone() -> None:
    features, labels = clouds(400)
    known, _ = clouds(200, seed=1)
    foreign = known.copy()
    foreign[:, -5:] += 0.6  # hardly any known image varies there
    distance = fit_distance(moments_of(features, labels))
    euclidean = replace(distance, weights=np.full_like(distance.weights, distance.rest))
    assert auroc(distance(known), distance(foreign)) > 0.96
    assert auroc(euclidean(known), euclidean(foreign)) < 0.9


def test_the_length_of_features_counts_for_nothing() -> None:
    features, labels = clouds(200)
    distance = fit_distance(moments_of(features, labels))
    assert np.allclose(distance(features * np.float32(7)), distance(features), rtol=1e-4)


def test_an_image_does_not_depend_on_those_beside_it() -> None:
    features, labels = clouds(200)
    distance = fit_distance(moments_of(features, labels))
    alone = np.concatenate([distance(features[n : n + 1]) for n in range(200)])
    assert np.array_equal(alone, distance(features))


def test_batches_give_what_the_whole_gives() -> None:
    features, labels = clouds(301)
    whole, parts = moments_of(features, labels), Moments(4, DIMENSIONS)
    for start in range(0, 301, 7):
        parts.add(power_normalised(features[start : start + 7]), labels[start : start + 7])
    assert np.array_equal(parts.counts, whole.counts)
    others, _ = clouds(50, seed=1)
    assert np.allclose(fit_distance(parts)(others), fit_distance(whole)(others), rtol=1e-2)


def test_moments_without_images_are_those_of_the_others() -> None:
    features, labels = clouds(100)
    left = moments_of(features, labels).without(power_normalised(features[:30]), labels[:30])
    right = moments_of(features[30:], labels[30:])
    assert np.array_equal(left.counts, right.counts)
    assert np.allclose(left.products, right.products, atol=1e-5)
    assert np.allclose(left.sums, right.sums, atol=1e-5)


@pytest.mark.parametrize(("images", "dimensions"), [(120, DIMENSIONS), (700, DIMENSIONS), (700, 560)])
def test_held_out_distances_are_those_of_fits_without_the_images(images: int, dimensions: int) -> None:
    """Few images go by their products with each other, many by those of their features; large ones by iteration."""
    features, labels = clouds(images, dimensions=dimensions)
    held = np.arange(0, images, 3)
    distance, held_out = fit_with_held_out(features, labels, 4, held)
    folds = _folds(labels[held], None)
    assert folds.max() == 9
    for fold in range(10):
        own = held[folds == fold]
        kept = np.setdiff1d(np.arange(images), own)
        fitted = replace(fit_distance(moments_of(features[kept], labels[kept])), scale=distance.scale)
        assert np.allclose(held_out[folds == fold], fitted(features[own]), rtol=1e-2)
        assert not np.allclose(held_out[folds == fold], distance(features[own]), rtol=1e-2)


def test_folds_have_all_classes_in_equal_shares() -> None:
    labels = np.repeat([0, 1, 2], [40, 33, 10])
    folds = _folds(labels, None)
    counts = np.stack([np.bincount(folds[labels == k], minlength=10) for k in range(3)])
    assert (counts.max(1) - counts.min(1) <= 1).all()


def test_held_out_distances_are_as_large_as_those_of_new_images() -> None:
    """In-sample ones are far too small where there are more features than images."""
    features, labels = clouds(100, dimensions=300)
    distance, held_out = fit_with_held_out(features, labels, 4)
    new = np.median(distance(clouds(400, dimensions=300, seed=1)[0]))
    assert np.median(held_out) == pytest.approx(new, rel=0.1)
    assert np.median(distance(features)) < 0.85 * new


def test_a_group_is_held_out_as_a_whole() -> None:
    """Each image is there twice: its twin must not speak for it."""
    features, labels = clouds(60, dimensions=300)
    twice, classes, groups = np.tile(features, (2, 1)), np.tile(labels, 2), np.tile(np.arange(60), 2)
    loose, tight = fit_with_held_out(twice, classes, 4), fit_with_held_out(twice, classes, 4, groups_N=groups)
    assert np.median(loose[1] * loose[0].scale) < 0.85 * np.median(tight[1] * tight[0].scale)
    assert np.allclose(tight[1][:60], tight[1][60:], rtol=1e-4)


def test_the_scale_puts_one_in_a_hundred_known_images_beyond_one() -> None:
    features, labels = clouds(3_000)
    distance, held_out = fit_with_held_out(features, labels, 4)
    assert (held_out > 1).mean() == pytest.approx(0.01, abs=0.001)
    assert 0.002 < (distance(clouds(3_000, seed=1)[0]) > 1).mean() < 0.02


def test_a_threshold_is_a_conformal_quantile() -> None:
    distances = np.random.default_rng(0).permutation(np.arange(1, 100)).astype(np.float32)
    assert unknown_threshold(distances, 0.01) == 99  # of 100 with the new image, one lies beyond
    assert unknown_threshold(distances, 0.05) == 95
    assert unknown_threshold(distances[:98], 0.01) == math.inf
    assert unknown_threshold(distances[:19], 0.05) == distances[:19].max()


def test_with_few_images_the_limit_is_estimated() -> None:
    chance = np.random.default_rng(0)
    beyond = []
    for _ in range(200):
        drawn = np.exp(chance.normal(0, 0.2, 30)).astype(np.float32)
        limit = distance_limit(drawn, 0.01)
        assert drawn.max() <= limit < math.inf
        beyond.append((np.exp(chance.normal(0, 0.2, 1_000)) > limit).mean())
    assert 0.005 < np.mean(beyond) < 0.025


def test_unknown_distances_count_for_nothing() -> None:
    distances = np.random.default_rng(0).random(200, np.float32)
    assert distance_limit(np.append(distances, np.float32("nan")), 0.01) == distance_limit(distances, 0.01)
    assert distance_limit(np.full(3, np.nan, np.float32), 0.01) > 0


def test_storing_changes_nothing() -> None:
    features, labels = clouds(300)
    distance, _ = fit_with_held_out(features, labels, 4)
    arrays = distance.arrays()
    assert sum(array.nbytes for array in arrays.values()) < 2.5 * (4 + DIMENSIONS) * DIMENSIONS
    others, _ = clouds(50, seed=1)
    assert np.array_equal(FeatureDistance.from_arrays(arrays)(others), distance(others))


def test_a_class_with_one_image_has_a_mean_and_its_image_the_distance_of_other_classes() -> None:
    features, labels = clouds(101)
    features[100] *= -1
    labels = np.where(np.arange(101) == 100, 4, labels)
    distance, held_out = fit_with_held_out(features, labels, 5)
    assert held_out[100] > 2 * held_out[:100].max()
    assert np.isfinite(held_out).all()
    assert np.allclose(distance.means[4], power_normalised(features)[100], atol=1e-3)


@pytest.mark.parametrize("images", [1, 2])
def test_few_known_images_of_small_classes_are_called_unknown(images: int) -> None:
    """A promise about known images includes those of classes with one image, whose mean is hardly known."""
    features, labels = clouds(2_000, classes=100, dimensions=100)
    kept = (np.arange(2_000) < 100 * images) | (labels < 50)
    distance, _ = fit_with_held_out(features[kept], labels[kept], 100)
    known, _ = clouds(2_000, classes=100, dimensions=100, seed=1)
    assert (distance(known) > 1).mean() < 0.025


def test_one_group_alone_has_no_distances() -> None:
    features, labels = clouds(8)
    assert np.isnan(fit_with_held_out(features, labels, 4, groups_N=np.zeros(8, np.int64))[1]).all()


@pytest.mark.parametrize("images", [30, 700])
@pytest.mark.parametrize(
    "case", ["constant", "zero", "one image each", "one image", "no image of a class", "one feature varies"]
)
def test_degenerate_features_give_finite_distances(images: int, case: str) -> None:
    features, labels = clouds(images)
    classes = 4
    if case == "constant":
        features[:] = 1
    elif case == "zero":
        features[:] = 0
    elif case == "one image each":
        labels, classes = np.arange(images), images
    elif case == "one image":
        features, labels = features[:1], labels[:1]
    elif case == "no image of a class":
        classes = 6
    else:
        features[:] = 1
        features[:, 0] += np.arange(images) % 5
    distance, held_out = fit_with_held_out(features, labels, classes)
    others, _ = clouds(20, seed=1)
    others[0] = 0 if case != "zero" else 1
    assert held_out.shape == labels.shape
    assert np.isfinite(distance(others)).all()
    assert np.isfinite(distance(features)).all()
    assert distance.scale > 0
    if case in ("constant", "zero", "one feature varies"):
        assert (distance(others) > 1).all()
        assert (distance(features) <= 1.01).mean() > 0.98


def test_float16_features_are_near_float32_ones() -> None:
    features, labels = clouds(200)
    distance = fit_distance(moments_of(features, labels))
    assert np.allclose(distance((features * 1_000).astype(np.float16)), distance(features), rtol=1e-2)


def test_many_classes_of_few_images() -> None:
    features, labels = clouds(900, classes=300, dimensions=100)
    distance, held_out = fit_with_held_out(features, labels, 300)
    known, _ = clouds(900, classes=300, dimensions=100, seed=1)
    assert np.isfinite(held_out).all()
    assert (distance(known) > 1).mean() < 0.025


def test_features_that_hardly_differ_keep_their_digits() -> None:
    """The terms of the formula are many times the result; torch computes it in float32."""
    torch = pytest.importorskip("torch")
    from cnn_tl.networks.distance_column import WithDistance

    features, labels = clouds(200)
    features = (20 + features).astype(np.float32)
    distance = fit_distance(moments_of(features, labels))
    exact = np.maximum(by_definition(distance, features), LEAST_SQUARE**0.5)
    assert exact.std() > 0.01
    assert np.allclose(distance(features), exact, rtol=1e-3)
    column = WithDistance(torch.nn.Identity(), distance)(torch.from_numpy(features))[:, -1]
    assert np.allclose(column.numpy(), exact, rtol=1e-3)
