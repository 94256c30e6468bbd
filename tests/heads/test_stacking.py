"""Logistic and ridge regression together: which share each has, and what becomes of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cnn_tl.core.statistics import softmax
from cnn_tl.heads import HEADS, FittedHead, Problem, stacking
from cnn_tl.heads.folds import stratified_folds
from cnn_tl.heads.logistic import logistic_with_held_out
from cnn_tl.heads.problem import HeldOut
from cnn_tl.heads.scaling import TEMPERED, scaling_of
from cnn_tl.recipe.defaults import HEAD_DEFAULTS

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


def draw(images: int = 120, features: int = 40, classes: int = 4, signal: float = 0.4) -> tuple[Rows, Labels]:
    chance = np.random.default_rng(5)
    labels = np.arange(images) % classes
    rows = signal * chance.normal(size=(classes, features))[labels] + chance.normal(size=(images, features))
    return rows.astype(np.float32), labels


def fit(kind: str, rows: Rows | list[Rows], labels: Labels, weights: Mapping[str, float] | None = None) -> FittedHead:
    classes = int(labels.max()) + 1
    of_class = np.ones(classes) if weights is None else np.array([*weights.values()])
    problem = Problem(rows if isinstance(rows, list) else [rows], labels, classes, of_class, seed=0)
    return HEADS[kind](problem, HEAD_DEFAULTS[kind])  # type: ignore[index]


def test_the_logits_are_the_weighted_mean_of_both() -> None:
    rows, labels = draw(signal=0.6)
    both, lbfgs, ridge = (fit(kind, rows, labels) for kind in ("lbfgs+ridge", "lbfgs", "ridge"))
    share = both.facts["share_of_ridge"]
    assert 0 < share < 1
    expected = (1 - share) * lbfgs.logits(rows) + share * ridge.logits(rows)
    np.testing.assert_allclose(both.logits(rows), expected, atol=1e-4)
    assert both.facts["lbfgs"] == lbfgs.facts
    assert both.facts["ridge"] == ridge.facts
    assert both.facts["converged"]


@pytest.mark.parametrize("views", [1, 3])
def test_each_image_is_judged_by_the_fold_without_it(views: int) -> None:
    shown, labels = [draw()[0] + 0.1 * view for view in range(views)], draw()[1]
    problem = Problem(shown, labels, 4, np.ones(4), seed=0)
    head, held_out = logistic_with_held_out(problem, *problem.stacked(), HEAD_DEFAULTS["lbfgs"])  # type: ignore[arg-type]
    assert held_out is not None
    np.testing.assert_array_equal(held_out.images, np.arange(len(labels)))
    every, folds = np.concatenate(shown), stratified_folds(labels, 5, seed=0)
    scaled, labels_R = scaling_of(every, TEMPERED)(every), np.tile(labels, views)
    for fold in range(5):
        fitted = np.tile(folds != fold, views)
        theirs = LogisticRegression(C=1 / (head.facts["penalty"] * len(every)), tol=1e-8, max_iter=10_000)
        theirs.fit(scaled[fitted], labels_R[fitted])
        left = np.flatnonzero(folds == fold)
        np.testing.assert_allclose(softmax(held_out.logits[left]), theirs.predict_proba(scaled[left]), atol=0.01)
    losses = -np.log(softmax(held_out.logits)[np.arange(len(labels)), labels])
    assert losses.mean() == pytest.approx(head.facts["cross_validation_log_loss"], rel=1e-4)


def held_out(logits: NDArray[np.float64]) -> HeldOut:
    return HeldOut(np.arange(len(logits)), logits)


def problem_of(labels: Labels, weights: list[float]) -> Problem:
    return Problem([np.zeros((len(labels), 1), np.float32)], labels, len(weights), np.array(weights), seed=0)


def share_of(labels: Labels, weights: list[float], first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return stacking._best_share(problem_of(labels, weights), held_out(first), held_out(second))[0]


def test_the_share_is_that_of_the_head_which_is_right_where_it_counts() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1] * 50)
    one, other, right = (np.where(labels[:, None] == [0, 1], 2.0, 0.0) for _ in range(3))
    one[::6] = [0, 4]  # wrong about a third of the first class
    other[3::6] = [4, 0]  # and about a third of the second
    assert share_of(labels, [1.0, 1.0], one, other) == 0.5
    assert share_of(labels, [1.0, 50.0], one, other) < 0.3
    assert share_of(labels, [50.0, 1.0], one, other) > 0.7
    assert share_of(labels, [1.0, 1.0], right, one) == 0
    assert share_of(labels, [1.0, 1.0], one, right) == 1


@pytest.mark.parametrize(("images", "low", "high"), [(6, 0.5, 0.6), (600, 0.8, 1.0)])
def test_few_images_hardly_move_the_share(images: int, low: float, high: float) -> None:
    labels = np.arange(images) % 2
    one, better = (scale * np.where(labels[:, None] == [0, 1], 1.0, 0.0) for scale in (1.0, 2.0))
    assert low <= share_of(labels, [1.0, 1.0], one, better) <= high


def test_images_that_were_not_sampled_are_passed_over() -> None:
    labels = np.array([0, 1, 0, 1])
    right = np.where(labels[:, None] == [0, 1], 3.0, 0.0)
    some = HeldOut(np.array([2, 3]), right[2:])
    wrong_elsewhere = np.concatenate([-right[:2], right[2:]])
    _, log_loss = stacking._best_share(problem_of(labels, [1.0, 1.0]), some, held_out(wrong_elsewhere))
    assert log_loss == pytest.approx(np.log1p(np.exp(-3)))


def test_without_an_image_to_leave_out_both_count_alike() -> None:
    rows, _ = draw(images=4, classes=4)
    head = fit("lbfgs+ridge", rows, np.arange(4))
    assert head.facts["share_of_ridge"] == 0.5
    assert head.facts["held_out_log_loss"] is None
    assert (head.logits(rows).argmax(1) == np.arange(4)).all()


def test_many_classes_that_ridge_confuses_are_left_to_logistic_regression() -> None:
    """On a line, a class between others is masked (Hastie et al. 2009, sec. 4.2): no linear score is highest there."""
    chance = np.random.default_rng(0)
    labels = np.arange(400) % 8
    angle = labels * 0.4 + 0.03 * chance.normal(size=400)
    rows = np.stack([np.cos(angle), np.sin(angle), *0.01 * chance.normal(size=(6, 400))], 1).astype(np.float32)
    facts = fit("lbfgs+ridge", rows, labels).facts
    assert facts["share_of_ridge"] <= 0.2
    assert facts["ridge"]["left_out_accuracy"] < 0.9
    assert facts["held_out_log_loss"] == pytest.approx(facts["lbfgs"]["cross_validation_log_loss"], abs=0.05)


def test_facts_are_plain_data() -> None:
    import json

    facts: dict[str, Any] = fit("lbfgs+ridge", *draw()).facts
    assert json.loads(json.dumps(facts)) == facts
