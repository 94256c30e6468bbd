"""The approximate inverse Hessians: what they are said to invert, and fits that use them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cnn_tl.heads import HEADS, Problem, logistic, penalty_path
from cnn_tl.heads.arrays import Arrays, DeviceArrays, HostArrays
from cnn_tl.heads.cross_entropy import CrossEntropy
from cnn_tl.heads.curvature import OwnRows, inverse_hessian
from cnn_tl.recipe.defaults import HEAD_DEFAULTS

ROWS, AXES, CLASSES = 9, 5, 4
LABELS = np.array([0, 1, 2, 3, 0, 1, 2, 0, 2])


def problem(arrays: Arrays) -> tuple[CrossEntropy, NDArray[np.float64], NDArray[np.float64]]:
    """Return the objective of two folds, of which the first does not fit row 3, theta, and the mean squares."""
    chance = np.random.default_rng(0)
    features = chance.normal(size=(ROWS, AXES))
    weights = np.full((2, ROWS), 1 / ROWS)
    weights[0, 3] = 0
    objective = CrossEntropy(arrays, arrays.put(features), LABELS, weights, CLASSES, 0.1)
    return objective, chance.normal(size=objective.shape), np.square(features).mean(0)


@pytest.mark.parametrize("arrays", [HostArrays(), DeviceArrays("cpu")], ids=["numpy", "torch"])
def test_the_own_rows_of_a_class_are_exact(arrays: Arrays) -> None:
    objective, theta, squares = problem(arrays)
    features = arrays.host(objective.features_RS)
    logits = theta[..., :-1] @ features.T + theta[..., -1:]
    p_FKR = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    curved_FKR = p_FKR * (1 - p_FKR)
    own_FR = curved_FKR[:, LABELS, np.arange(ROWS)]
    others_F = (curved_FKR.sum((1, 2)) - own_FR.sum(1)) / (ROWS * CLASSES)
    apply = OwnRows(arrays, objective.features_RS, LABELS).inverse_hessian(objective, arrays.put(theta), squares)
    vectors = np.random.default_rng(1).normal(size=(2, 3, theta[0].size))
    found = arrays.host(apply(arrays.put(vectors))).reshape(2, 3, CLASSES, AXES + 1)
    weights_FR = arrays.host(objective.weights_FR)
    for fold in range(2):
        for k in range(CLASSES):
            own = features[k == LABELS]
            scales = (weights_FR * own_FR)[fold, k == LABELS]
            hessian = np.diag(others_F[fold] * squares + 0.1) + (own.T * scales) @ own
            wanted = np.linalg.solve(hessian, vectors.reshape(found.shape)[fold, :, k, :-1].T).T
            np.testing.assert_allclose(found[fold, :, k, :-1], wanted, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(arrays.host(apply(arrays.put(vectors[:, 0]))), found[:, 0].reshape(2, -1))


def test_without_own_rows_all_rows_are_equally_uncertain() -> None:
    objective, theta, squares = problem(HostArrays())
    theta[:] = 0  # p is 1 / 4 everywhere
    found = inverse_hessian(HostArrays(), objective, theta, squares)(np.ones((2, theta[0].size))).reshape(theta.shape)
    np.testing.assert_allclose(found[..., :-1], np.broadcast_to(1 / (3 / 16 * squares + 0.1), found[..., :-1].shape))
    np.testing.assert_allclose(found[..., -1], 16 / 3)


def test_a_fit_with_little_memory_has_the_same_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the own rows of each class speed it up; 30 classes are large enough if hardly any memory is allowed."""
    chance = np.random.default_rng(2)
    labels = np.arange(60) % 30
    features = (chance.normal(size=(30, 50))[labels] + chance.normal(size=(60, 50))).astype(np.float32)

    def fit() -> tuple[NDArray[np.float32], dict[str, object]]:
        head = HEADS["lbfgs"](Problem([features], labels, 30, np.ones(30), 0), HEAD_DEFAULTS["lbfgs"])
        return head.tensors["weight"], head.facts

    with_memory, facts = fit()
    monkeypatch.setattr(penalty_path, "WORKSPACE", 1)
    used = []
    inverse = OwnRows.inverse_hessian
    monkeypatch.setattr(OwnRows, "inverse_hessian", lambda *args: used.append(1) or inverse(*args))  # type: ignore[func-returns-value]
    with_little, found = fit()
    assert used
    assert found["penalty"] == facts["penalty"]
    np.testing.assert_allclose(with_little, with_memory, atol=1e-4 * np.abs(with_memory).max())


@pytest.mark.parametrize(
    ("images", "classes", "folds"),
    [(90, 3, 5), (1_000, 10, 5), (5_000, 5, 5), (1_100, 220, 5), (2_000, 400, 2), (2_000, 1_000, 2), (6_000, 1_000, 1)],
)
def test_about_a_thousand_images_are_held_out(images: int, classes: int, folds: int) -> None:
    labels = np.arange(images) % classes
    problem = Problem([np.zeros((images, 1), np.float32)], labels, classes, np.ones(classes), 0)
    sample = logistic._sample(problem, np.arange(images))
    assert list(logistic._folds_held_out(sample)) == list(range(folds))
