"""The logits that a fitted head keeps of images that it was fitted without: they are honest, and as confident."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from cnn_tl.core.statistics import softmax
from cnn_tl.heads import (
    HEADS,
    FittedHead,
    Problem,
    arrays,
    fold_fits,
    lbfgs,
    logistic,
    neighbours,
    penalty_path,
    prototype,
    ridge,
)
from cnn_tl.heads.arrays import DeviceArrays, HostArrays
from cnn_tl.heads.lbfgs import History, minimise
from cnn_tl.heads.problem import HeldOut
from cnn_tl.heads.scaling import TEMPERED, scaling_of
from cnn_tl.recipe.defaults import HEAD_DEFAULTS

Labels = NDArray[np.int64]
Rows = NDArray[np.float32]
HONEST = [kind for kind in HEADS if kind != "adamw"]


def draw(images: int, features: int = 12, classes: int = 3, spread: float = 1.5, seed: int = 0) -> tuple[Rows, Labels]:
    labels = np.arange(images) % classes
    means = np.random.default_rng(99).normal(size=(classes, features))
    rows = means[labels] + spread * np.random.default_rng(seed).normal(size=(images, features))
    return rows.astype(np.float32), labels


def problem_of(views: Rows | list[Rows], labels: Labels, **more: Any) -> Problem:
    classes = int(labels.max()) + 1
    shown = views if isinstance(views, list) else [views]
    return Problem(shown, labels, classes, more.pop("weights", np.ones(classes)), 0, **more)


def fit(kind: Any, problem: Problem, **settings: Any) -> FittedHead:
    return HEADS[kind](problem, HEAD_DEFAULTS[kind].model_copy(update=settings))  # type: ignore[index]


def held(kind: Any, problem: Problem, **settings: Any) -> HeldOut:
    found = fit(kind, problem, **settings).held_out
    assert found is not None
    return found


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the penalty on few images, so that the folds of all are fitted anew."""
    monkeypatch.setattr(logistic, "CROSS_VALIDATION_IMAGES", 60)
    monkeypatch.setattr(fold_fits, "IMAGES_OF_FOLD", 40)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("images", [90, 1_500])
def test_which_images_are_held_out_and_that_no_weight_depends_on_it(kind: str, images: int) -> None:
    rows, labels = draw(images)
    head, without = fit(kind, problem_of(rows, labels)), fit(kind, problem_of(rows, labels, hold_out=False))
    assert without.held_out is None
    assert without.facts == head.facts
    assert all(np.array_equal(head.tensors[name], without.tensors[name]) for name in head.tensors)
    if kind == "adamw":
        assert head.held_out is None
    else:
        assert head.held_out is not None
        np.testing.assert_array_equal(head.held_out.images, np.arange(images))
        assert head.held_out.logits.shape == (images, 3)
        assert np.isfinite(head.held_out.logits).all()


@pytest.mark.parametrize("images", [4_000, 30_000])
def test_of_many_images_a_part_is_held_out(images: int) -> None:
    rows, labels = draw(images, features=3)
    of_lbfgs, of_knn = (held(kind, problem_of(rows, labels)) for kind in ("lbfgs", "knn"))
    assert 1_500 <= len(of_lbfgs.images) <= 2_500
    assert len(of_knn.images) == 2_000
    for found, uneven in ((of_lbfgs, 5), (of_knn, 150)):
        assert (np.diff(found.images) > 0).all()
        assert np.ptp(np.bincount(labels[found.images])) <= uneven, "each class has its share"


def test_rare_classes_are_held_out_as_rarely_as_they_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "HELD_OUT_IMAGES", 100)
    rows, labels = draw(1_000, classes=50)
    labels = np.where(labels < 20, 0, labels - 19)  # 400 images of one class, 20 of each of 30 others
    rare = (labels[held("knn", problem_of(rows, labels)).images] > 0).mean()
    assert rare == pytest.approx(0.6, abs=0.15)
    rarest = np.where(np.arange(1_000) < 940, 0, np.arange(1_000) % 30 + 1)
    assert (rarest[held("knn", problem_of(rows, rarest)).images] > 0).mean() < 0.15


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("penalty", [None, 1e-3])
@pytest.mark.parametrize("workspace", [penalty_path.WORKSPACE, 2**10])
def test_fits_of_folds_are_fits_to_the_other_images(
    monkeypatch: pytest.MonkeyPatch, views: int, penalty: float | None, workspace: int
) -> None:
    """The penalty is that of the final fit, with the weight that it has there beside each image."""
    monkeypatch.setattr(penalty_path, "WORKSPACE", workspace)
    monkeypatch.setattr(fold_fits, "TOLERANCE", 1e-10)
    shown, labels = [draw(240, seed=seed)[0] for seed in range(views)], draw(240)[1]
    weights = np.array([0.5, 1.0, 1.5])
    problem = problem_of(shown, labels, weights=weights)
    head = fit("lbfgs", problem, penalty=penalty)
    fold_N, used = fold_fits._folds(problem)
    assert len(used) == 6
    assert head.held_out is not None
    every = np.concatenate(shown)
    scaled, labels_R = scaling_of(every, TEMPERED)(every), np.tile(labels, views)
    for fold in used:
        fitted = np.tile(fold_N != fold, views)
        theirs = LogisticRegression(C=1 / (head.facts["penalty"] * len(every)), tol=1e-8, max_iter=10_000)
        theirs.fit(scaled[fitted], labels_R[fitted], sample_weight=weights[labels_R[fitted]])
        left = np.flatnonzero(fold_N == fold)
        expected = theirs.predict_proba(scaled[left])
        np.testing.assert_allclose(softmax(head.held_out.logits[left]), expected, atol=2e-3)


def test_few_rows_of_many_classes_with_a_given_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the preconditioner treats the rows of each class exactly; it serves all folds at once."""
    monkeypatch.setattr(penalty_path, "WORKSPACE", 2**10)
    rows, labels = draw(200, features=30, classes=40, spread=0.7)
    tight, default = [], held("lbfgs", problem_of(rows, labels), penalty=1e-3)
    for tolerance in (1e-10, 1e-11):
        monkeypatch.setattr(fold_fits, "TOLERANCE", tolerance)
        tight.append(held("lbfgs", problem_of(rows, labels), penalty=1e-3))
    np.testing.assert_allclose(softmax(tight[0].logits), softmax(tight[1].logits), atol=1e-4)
    np.testing.assert_allclose(softmax(default.logits), softmax(tight[0].logits), atol=0.02)


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("penalty", [1e-4, 1e-2])
def test_the_start_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, penalty: float) -> None:
    """Fits that start where all labels are known say what fits from nothing say."""
    rows, labels = draw(600, features=100, classes=5, spread=4.0)
    problem, found, start = problem_of(rows, labels), {}, fold_fits.fit_folds

    def cold(problem: Any, arrays: Any, rows: Any, whole: Any, penalty: float) -> Any:
        monkeypatch.setattr(fold_fits, "TOLERANCE", 1e-10)
        return start(problem, arrays, rows, dataclasses.replace(whole, end=0 * whole.end), penalty)

    found["warm"] = held("lbfgs", problem, penalty=penalty)
    monkeypatch.setattr(logistic, "fit_folds", cold)
    found["cold"] = held("lbfgs", problem, penalty=penalty)
    monkeypatch.setattr(fold_fits, "TOLERANCE", 1e3)
    monkeypatch.setattr(logistic, "fit_folds", start)
    found["start"] = held("lbfgs", problem, penalty=penalty)
    own = {name: softmax(one.logits)[np.arange(600), labels] for name, one in found.items()}
    assert (known := (own["start"] - own["cold"]).mean()) > 0.1, "the start knows the labels"
    assert abs((own["warm"] - own["cold"]).mean()) < known / 500
    assert np.abs(own["warm"] - own["cold"]).max() < 0.03
    assert np.log(own["warm"]).mean() == pytest.approx(np.log(own["cold"]).mean(), rel=2e-3)


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("kind", ["lbfgs", "ridge", "knn", "prototype"])
@pytest.mark.parametrize("groups", [None, np.arange(240) // 2])
def test_no_label_of_the_own_group_has_a_say(monkeypatch: pytest.MonkeyPatch, kind: str, groups: Labels | None) -> None:
    """With the same hyper-parameters. Of the others, each label has."""
    folds = np.random.default_rng(5).permutation(120) % 6
    monkeypatch.setattr(fold_fits, "stratified_folds", lambda *_: np.repeat(folds, 2))
    monkeypatch.setattr(fold_fits, "TOLERANCE", 1e-14)
    for module in (ridge, prototype):
        monkeypatch.setattr(module, "best_factor", lambda *_: (1.0, 0.0))
    rows, labels = draw(240)
    labels = np.repeat(labels[::2], 2) if groups is not None else labels
    flipped = labels.copy()
    image = 41
    flipped[image] = (labels[image] + 1) % 3
    settings = {"penalty": 1e-2} if kind in ("lbfgs", "ridge") else {}
    before, after = (held(kind, problem_of(rows, one, groups=groups), **settings) for one in (labels, flipped))
    group = [image] if groups is None else [image - 1, image]
    scale = 1.0
    if kind == "prototype":  # the variance depends on all labels
        scale = np.linalg.norm(before.logits[group]) / np.linalg.norm(after.logits[group])
    np.testing.assert_allclose(after.logits[group] * scale, before.logits[group], atol=2e-5)
    changed = np.abs(after.logits * scale - before.logits).max(1)
    assert (np.delete(changed, group) > 1e-4).mean() > (0.03 if kind == "knn" else 0.3)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("groups", [None, np.arange(60) // 4])
def test_neighbours_vote_without_the_own_group(views: int, groups: Labels | None) -> None:
    shown, labels = [draw(60, seed=seed)[0] for seed in range(views)], draw(60)[1]
    for view in shown:
        view[30:34] = shown[0][0]  # copies in another group
    weights = np.array([0.5, 1.0, 1.5])
    found = held("knn", problem_of(shown, labels, weights=weights, groups=groups), neighbours=7)
    own = np.arange(60) if groups is None else groups
    for image in range(60):
        kept = own != own[image]
        rest = problem_of([view[kept] for view in shown], labels[kept], weights=weights)
        expected = fit("knn", rest, neighbours=7).logits(shown[0][image : image + 1])[0]
        np.testing.assert_allclose(found.logits[image], expected, atol=1e-4)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("groups", [None, np.arange(60) // 4])
def test_class_means_without_the_own_group(views: int, groups: Labels | None) -> None:
    shown, labels = [draw(60, seed=seed)[0] for seed in range(views)], draw(60)[1]
    head = fit("prototype", problem_of(shown, labels, groups=groups))
    assert head.held_out is not None
    scaled = [scaling_of(np.concatenate(shown))(view).astype(np.float64) for view in shown]
    own = np.arange(60) if groups is None else groups
    every = np.mean(scaled, 0)
    means = np.stack([every[labels == k].mean(0) for k in range(3)])
    variance = np.mean([np.square(view - means[labels]).sum(1) for view in scaled])
    for image in range(60):
        kept = own != own[image]
        left = np.stack([every[kept & (labels == k)].mean(0) for k in range(3)])
        logits = -np.square(scaled[0][image] - left).sum(1) / 2 * head.facts["factor"] / variance
        found = head.held_out.logits[image]
        np.testing.assert_allclose(found - found.mean(), logits - logits.mean(), atol=1e-5)


@pytest.mark.parametrize("kind", HONEST)
def test_images_without_which_a_class_is_unknown_are_never_held_out(kind: str) -> None:
    rows, labels = draw(90)
    labels[:3] = [3, 4, 4]  # alone in its class; a class in one group
    groups = np.arange(90)
    groups[1:3] = 1
    np.testing.assert_array_equal(held(kind, problem_of(rows, labels)).images, [1, 2, *range(3, 90)])
    np.testing.assert_array_equal(held(kind, problem_of(rows, labels, groups=groups)).images, np.arange(3, 90))
    assert fit(kind, problem_of(rows, np.arange(90) % 3, groups=np.arange(90) % 3)).held_out is None
    assert fit(kind, problem_of(rows[:3], np.arange(3))).held_out is None


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("kind", HONEST)
def test_copies_of_an_image_do_not_tell_its_class(kind: str) -> None:
    """Features say nothing of the class, and each group is four copies of an image."""
    chance = np.random.default_rng(6)
    rows = np.repeat(chance.normal(size=(80, 60)), 4, axis=0) + 0.01 * chance.normal(size=(320, 60))
    labels, groups = np.repeat(np.arange(80) % 2, 4), np.repeat(np.arange(80), 4)
    problem = problem_of(rows.astype(np.float32), labels)
    for chosen in (None, groups):
        found = held(kind, dataclasses.replace(problem, groups=chosen))
        accuracy = (found.logits.argmax(1) == labels[found.images]).mean()
        assert accuracy < 0.65 if chosen is not None else accuracy > 0.7


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_in_two_folds(seed: int) -> None:
    chance = np.random.default_rng(seed)
    labels, groups = chance.integers(0, 4, 500), chance.integers(0, 90, 500)
    fold_N, used = fold_fits._folds(problem_of(np.zeros((500, 1), np.float32), labels, groups=groups))
    assert len(used) == 5
    assert all(len(set(fold_N[groups == group])) == 1 for group in groups)


@pytest.mark.parametrize("kind", HONEST)
def test_held_out_images_are_known_as_well_as_new_ones(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """In accuracy, log loss and confidence; images held out from the sample are not."""
    monkeypatch.setattr(logistic, "CROSS_VALIDATION_IMAGES", 100)
    rows, labels = draw(1_400, features=60, classes=4, spread=3.0)
    new, new_labels = draw(4_000, features=60, classes=4, spread=3.0, seed=1)
    problem = problem_of(rows, labels)
    head = fit(kind, problem)
    assert head.held_out is not None

    def measured(logits: NDArray[Any], labels: Labels) -> NDArray[np.float64]:
        p = softmax(logits.astype(np.float64))
        own = p[np.arange(len(labels)), labels]
        return np.array([(p.argmax(1) == labels).mean(), p.max(1).mean(), np.log(np.maximum(own, 1e-3)).mean()])

    expected = measured(head.logits(new), new_labels)
    found = measured(head.held_out.logits, labels[head.held_out.images])
    np.testing.assert_allclose(found, expected, atol=0.04)
    if kind == "lbfgs":
        settings: Any = HEAD_DEFAULTS["lbfgs"]
        _, judged = logistic.logistic_with_held_out(problem, *problem.stacked(), settings)
        assert judged is not None
        assert np.abs(measured(judged.logits, labels[judged.images]) - expected).max() > 0.06


@pytest.mark.usefixtures("small_sample")
def test_both_together_are_the_weighted_mean() -> None:
    rows, labels = draw(240, spread=3.0)
    both, first, second = (fit(kind, problem_of(rows, labels)) for kind in ("lbfgs+ridge", "lbfgs", "ridge"))
    assert both.held_out is not None
    assert first.held_out is not None
    assert second.held_out is not None
    share = both.facts["share_of_ridge"]
    assert 0 < share < 1
    expected = (1 - share) * first.held_out.logits + share * second.held_out.logits
    np.testing.assert_allclose(both.held_out.logits, expected, atol=1e-6)


@pytest.mark.usefixtures("small_sample")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("features", [12, 300])
def test_a_device_says_the_same(monkeypatch: pytest.MonkeyPatch, device: str, features: int) -> None:
    rows, labels = draw(240, features)
    host = held("lbfgs+ridge", problem_of(rows, labels))
    monkeypatch.setattr(arrays, "HostArrays", lambda: DeviceArrays(device))
    theirs = held("lbfgs+ridge", problem_of(rows, labels))
    np.testing.assert_array_equal(theirs.images, host.images)
    np.testing.assert_allclose(softmax(theirs.logits), softmax(host.logits), atol=0.01)


def test_a_fit_of_folds_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, fit_folds = [], fold_fits.fit_folds
    monkeypatch.setattr(logistic, "fit_folds", lambda *args: (begun.append(1), fit_folds(*args))[1])

    def check() -> None:
        if begun:
            raise KeyboardInterrupt

    rows, labels = draw(1_500)
    with pytest.raises(KeyboardInterrupt):
        fit("lbfgs", problem_of(rows, labels, check=check))


def test_what_the_steps_of_a_fit_teach_of_the_curvature() -> None:
    """It is what turns a gradient into the next step: symmetric, and right about the newest one."""
    chance = np.random.default_rng(3)
    root = chance.normal(size=(6, 6))
    hessian = root @ root.T + np.eye(6)
    host = HostArrays()
    history = History(host, 1, 6, 20, np.float64)
    scale = np.linspace(0.5, 2, 6)

    def objective(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gradient = (x - 1) @ hessian
        return 1 + ((x - 1) * gradient).sum(1) / 2, gradient

    def inverse(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        return vectors * scale

    start = np.zeros((1, 6))
    minimise(host, objective, inverse, start, history, tolerance=1e-16, most=60, check=lambda: None)
    vectors = chance.normal(size=(4, 6))
    learnt = history.learnt(inverse)
    matrix, newest = learnt(np.eye(6)), history.slots[-1]
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
    np.testing.assert_allclose(learnt(history.y[:, newest]), history.s[:, newest], rtol=1e-6)
    np.testing.assert_allclose(learnt(vectors), vectors @ matrix, rtol=1e-9)
    assert np.abs(matrix @ hessian - np.eye(6)).max() < np.abs(scale[:, None] * hessian - np.eye(6)).max() / 5
    point, _ = lbfgs._evaluate(host, objective, inverse, history, chance.normal(size=(1, 6)))
    step, _ = lbfgs._direction(host, history, point)
    np.testing.assert_allclose(-learnt(point.gradient), step, rtol=1e-9)
    empty = History(host, 1, 6, 20, np.float64).learnt(inverse)
    np.testing.assert_array_equal(empty(vectors), vectors * scale)
