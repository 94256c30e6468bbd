"""Cross-validation of heads that keeps groups of images together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from cnn_tl.core.statistics import softmax
from cnn_tl.heads import HEADS, Problem, ridge
from cnn_tl.heads.arrays import DeviceArrays, HostArrays
from cnn_tl.heads.folds import holds_whole_class, members_of, stratified_folds
from cnn_tl.heads.logistic import FOLDS, logistic_with_held_out
from cnn_tl.heads.ridge import ridge_with_held_out
from cnn_tl.recipe.defaults import HEAD_DEFAULTS

Labels = NDArray[np.int64]


def draw(chance: np.random.Generator, labels: Labels, features: int = 12) -> NDArray[np.float32]:
    means = chance.normal(size=(int(labels.max()) + 1, features))
    return (means[labels] + chance.normal(size=(len(labels), features))).astype(np.float32)


def problem_of(features: NDArray[np.float32], labels: Labels, groups: Labels | None) -> Problem:
    classes = int(labels.max()) + 1
    return Problem([features], labels, classes, np.ones(classes), seed=3, groups=groups)


@pytest.mark.parametrize("seed", range(40))
def test_no_group_is_in_two_folds_and_no_fit_lacks_a_class(seed: int) -> None:
    chance = np.random.default_rng(seed)
    images, classes = int(chance.integers(4, 200)), int(chance.integers(2, 9))
    labels = chance.integers(0, classes, images)
    groups = chance.integers(0, chance.integers(2, images + 1), images)
    if seed % 2:  # groups of one class each
        groups = groups * classes + labels
    folds = stratified_folds(labels, FOLDS, seed, groups)
    assert set(folds) <= {*range(FOLDS + 1)}
    for group in set(groups):
        assert len(set(folds[groups == group])) == 1
    for fold in set(folds) - {FOLDS}:
        assert set(labels[folds != fold]) == set(labels)
    whole = [group for group in set(groups) if any(set(groups[labels == k]) == {group} for k in set(labels))]
    assert all((folds[groups == group] == FOLDS).all() for group in whole)
    np.testing.assert_array_equal(folds, stratified_folds(labels, FOLDS, seed, groups))


@pytest.mark.parametrize("seed", range(5))
def test_small_groups_are_dealt_evenly(seed: int) -> None:
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, 4, 400)
    groups = chance.integers(0, 150, 400) * 4 + labels
    counts = np.array([np.bincount(labels[stratified_folds(labels, 5, seed, groups) == f], minlength=4)
                       for f in range(5)])  # fmt: skip
    assert counts.max(0).max() - counts.min() < 10 + np.ptp(np.bincount(labels)) / 5
    assert (np.ptp(counts, axis=0) <= 4).all()


def test_members_and_whole_classes() -> None:
    labels, groups = np.array([0, 0, 1, 1, 2]), np.array([7, 7, 9, 2, 9])
    assert [list(own) for own in members_of(groups)] == [[3], [0, 1], [2, 4]]
    assert list(holds_whole_class(labels, members_of(groups))) == [False, True, True]


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("features", [5, 80])
def test_ridge_leaves_out_whole_groups_exactly(views: int, features: int) -> None:
    """What the hat matrix says, with Woodbury's identity or without, is what fits without the group say."""
    chance = np.random.default_rng(0)
    rows = chance.normal(size=(views * 12, features))
    targets = np.tile(np.eye(3)[np.arange(12) % 3], (views, 1))
    root = np.sqrt(np.tile(np.linspace(0.5, 1.5, 12), views))[:, None]
    mean_D, mean_K = (np.average(a, axis=0, weights=root[:, 0] ** 2) for a in (rows, targets))
    left, values, _ = ridge._decomposed(HostArrays(), root * (rows - mean_D))
    y, penalty = root * (targets - mean_K), 0.7
    images = np.array([[0, 1, 2, 3, 7, 8, 9], [4, 5, 6, 10, 11, 1, 0]])
    pieces = ridge._groups_left_out(HostArrays(), left, values / (values + penalty), y, root, [images], 12)
    found = np.concatenate([scores for _, scores in pieces]).reshape(2, 7, 3) + mean_K
    for own, scores in zip(images, found, strict=True):
        kept = ~np.isin(np.tile(np.arange(12), views), own)
        theirs = Ridge(alpha=penalty).fit(rows[kept], targets[kept], sample_weight=root[kept, 0] ** 2)
        np.testing.assert_allclose(scores, theirs.predict(rows[own]), atol=1e-6)


def test_the_groups_of_a_fit_are_left_out_in_pieces_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(2)
    labels = np.arange(60) % 3
    problem = problem_of(draw(chance, labels), labels, np.arange(60) // 2)
    fits = [ridge_with_held_out(problem, *problem.stacked(), HEAD_DEFAULTS["ridge"])]  # type: ignore[arg-type]
    monkeypatch.setattr(ridge, "_AT_ONCE", 1)
    fits.append(ridge_with_held_out(problem, *problem.stacked(), HEAD_DEFAULTS["ridge"]))  # type: ignore[arg-type]
    np.testing.assert_allclose(fits[0][1].logits, fits[1][1].logits, rtol=1e-9)


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("features", [6, 80])
def test_ridge_is_the_same_in_torch(monkeypatch: pytest.MonkeyPatch, views: int, features: int) -> None:
    chance = np.random.default_rng(9)
    labels, groups = np.arange(60) % 3, chance.integers(0, 12, 60)
    shown = [draw(chance, labels, features) for _ in range(views)]
    problem = Problem(shown, labels, 3, np.ones(3), seed=0, groups=groups)
    found = []
    for _ in range(2):
        found.append(ridge_with_held_out(problem, *problem.stacked(), HEAD_DEFAULTS["ridge"]))  # type: ignore[arg-type]
        monkeypatch.setattr(ridge, "compute", lambda size, device, function: function(DeviceArrays("cpu")))
    (host, held), (theirs, also_held) = found
    assert host.facts["penalty"] == theirs.facts["penalty"]
    np.testing.assert_array_equal(held.images, also_held.images)
    np.testing.assert_allclose(held.logits, also_held.logits, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", HEADS)
def test_groups_of_single_images_change_no_held_out_image(kind: Any) -> None:
    """A group of each image is what None means; without groups nothing depends on them."""
    chance = np.random.default_rng(4)
    labels = np.arange(90) % 3
    features = draw(chance, labels)
    heads = [HEADS[kind](problem_of(features, labels, groups), HEAD_DEFAULTS[kind]) for groups in (None, np.arange(90))]
    expected = heads[0].logits(features)
    if "lbfgs" in kind or kind == "auto":  # other folds, so perhaps another penalty
        assert (expected.argmax(1) == heads[1].logits(features).argmax(1)).mean() > 0.95
    else:
        np.testing.assert_array_equal(expected, heads[1].logits(features))


def copied(copies: int) -> tuple[NDArray[np.float32], Labels, Labels]:
    """Features that say nothing of the class, several nearly equal ones of each group."""
    chance = np.random.default_rng(6)
    labels = np.repeat(np.arange(80) % 2, copies)
    features = np.repeat(chance.normal(size=(80, 60)), copies, axis=0) + 0.01 * chance.normal(size=(80 * copies, 60))
    return features.astype(np.float32), labels, np.repeat(np.arange(80), copies)


def test_held_out_groups_cannot_be_recognised() -> None:
    features, labels, groups = copied(4)
    fits: list[tuple[Any, Any]] = [
        (logistic_with_held_out, HEAD_DEFAULTS["lbfgs"]), (ridge_with_held_out, HEAD_DEFAULTS["ridge"])
    ]  # fmt: skip
    for fit, settings in fits:
        accuracies = []
        for chosen in (None, groups):
            problem = problem_of(features, labels, chosen)
            _, held = fit(problem, *problem.stacked(), settings)
            accuracies.append((held.logits.argmax(1) == labels[held.images]).mean())
        assert accuracies[0] > 0.9, "the copies of an image tell its class"
        assert accuracies[1] < 0.65, "without them it is a guess"


def test_confidence_is_that_of_new_groups() -> None:
    features, labels, groups = copied(4)
    kinds: list[Any] = ["lbfgs", "ridge", "lbfgs+ridge"]
    for kind in kinds:
        new = np.random.default_rng(8).normal(size=(200, 60)).astype(np.float32)
        together, alone = (HEADS[kind](problem_of(features, labels, chosen), HEAD_DEFAULTS[kind]).logits(new)
                           for chosen in (groups, None))  # fmt: skip
        assert softmax(together).max(1).mean() < 0.75 < softmax(alone).max(1).mean()


@pytest.mark.parametrize("kind", ["lbfgs", "ridge", "lbfgs+ridge"])
def test_a_class_in_one_group_is_never_held_out(kind: Any) -> None:
    chance = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 20)
    features, groups = draw(chance, labels), np.concatenate([np.arange(40) // 4, np.full(20, 99)])
    problem = problem_of(features, labels, groups)
    _, held = ridge_with_held_out(problem, *problem.stacked(), HEAD_DEFAULTS["ridge"])  # type: ignore[arg-type]
    np.testing.assert_array_equal(held.images, np.arange(40))
    _, folded = logistic_with_held_out(problem, *problem.stacked(), HEAD_DEFAULTS["lbfgs"])  # type: ignore[arg-type]
    assert folded is not None
    np.testing.assert_array_equal(folded.images, np.arange(40))
    head = HEADS[kind](problem, HEAD_DEFAULTS[kind])
    assert (head.logits(features).argmax(1) == labels).mean() > 0.9


@pytest.mark.parametrize("kind", ["lbfgs", "ridge", "lbfgs+ridge"])
def test_where_each_class_is_one_group_a_head_is_fitted_all_the_same(kind: Any) -> None:
    chance = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 20)
    features = draw(chance, labels)
    head = HEADS[kind](problem_of(features, labels, labels.copy()), HEAD_DEFAULTS[kind])
    assert (head.logits(features).argmax(1) == labels).mean() > 0.9


@pytest.mark.parametrize("seed", range(10))
def test_both_together_with_any_groups(seed: int) -> None:
    """Ridge has left out each image that logistic regression has held out."""
    chance = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), chance.integers(0, 3, 57)])
    groups = chance.integers(0, int(chance.integers(2, 30)), 60)
    features = draw(chance, labels)
    problem = problem_of(features, labels, groups)
    _, first = logistic_with_held_out(problem, *problem.stacked(), HEAD_DEFAULTS["lbfgs"])  # type: ignore[arg-type]
    _, second = ridge_with_held_out(problem, *problem.stacked(), HEAD_DEFAULTS["ridge"])  # type: ignore[arg-type]
    assert first is None or set(first.images) <= set(second.images)
    head = HEADS["lbfgs+ridge"](problem, HEAD_DEFAULTS["lbfgs+ridge"])
    assert np.isfinite(head.logits(features)).all()
