"""Left-out scores are those of a fit that never saw the unit."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from cnn_tl.core.errors import DivergedError
from cnn_tl.doctor.labels.left_out import LeftOutRidge, rooted
from cnn_tl.doctor.labels.units import units_of
from cnn_tl.heads.arrays import HostArrays


def expected(features: np.ndarray, targets: np.ndarray, penalty: float, judged: np.ndarray) -> np.ndarray:
    """Return the scores of some images by a ridge regression, with an intercept, on the others."""
    strength = penalty * np.square(features).sum() / features.shape[1]
    ones = np.ones((len(features), 1))
    wide = np.concatenate([features, ones], 1).astype(np.float64)
    fitted = np.setdiff1d(np.arange(len(features)), judged)
    size = np.diag([*[strength] * features.shape[1], 0.0])
    weights = np.linalg.solve(wide[fitted].T @ wide[fitted] + size, wide[fitted].T @ targets[fitted])
    return np.asarray(wide[judged] @ weights)


@pytest.mark.parametrize(("images", "dimensions"), [(40, 12), (30, 70)])
def test_scores_equal_those_of_fits_without_the_unit(images: int, dimensions: int) -> None:
    chance = np.random.default_rng(3)
    features = rooted(chance.normal(size=(images, dimensions)).astype(np.float32))
    targets = np.eye(3, dtype=np.float32)[np.arange(images) % 3]
    groups = np.full(images, -1)
    groups[[2, 5, 9]] = 1
    many = np.arange(12, 28)  # more than there are axes, in the first case
    groups[many] = 4
    with closing(HostArrays()) as arrays:
        ridge = LeftOutRidge(arrays, features, units_of(groups, images))
        for penalty in (0.1, 3.0):
            scores = ridge.scores(targets, penalty)
            for judged in ([0], [7], [images - 1], [2, 5, 9], many):
                np.testing.assert_allclose(
                    scores[judged], expected(features, targets, penalty, np.array(judged)), atol=2e-4
                )


def test_a_target_that_is_the_left_out_score_is_as_if_the_image_were_absent() -> None:
    chance = np.random.default_rng(5)
    features = rooted(chance.normal(size=(40, 12)).astype(np.float32))
    targets = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    with closing(HostArrays()) as arrays:
        ridge = LeftOutRidge(arrays, features, units_of(None, 40))
        believed = ridge.scores(targets, 1.0)
        targets[3] = believed[3]
        scores = ridge.scores(targets, 1.0)
    np.testing.assert_allclose(scores[3], believed[3], atol=1e-5)
    others = np.delete(np.arange(40), 3)
    absent = np.array([expected(features, targets, 1.0, np.array([one, 3]))[0] for one in others])
    assert np.abs(scores[others] - absent).mean() < 0.2 * np.abs(believed[others] - absent).mean()


def test_many_images_are_judged_as_few_are() -> None:
    """Blocks, and a sample for the penalty, change nothing but the time."""
    chance = np.random.default_rng(4)
    features = rooted(chance.normal(size=(9_500, 8)).astype(np.float32))
    targets = np.eye(2, dtype=np.float32)[np.arange(len(features)) % 2]
    with closing(HostArrays()) as arrays:
        scores = LeftOutRidge(arrays, features, units_of(None, len(features))).scores(targets, 1.0)
    for judged in (0, 4_000, 9_499):
        np.testing.assert_allclose(scores[judged], expected(features, targets, 1.0, np.array([judged]))[0], atol=1e-4)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DivergedError, match="NaN or infinite"):
        rooted(np.array([[1.0, np.nan]], np.float32))
