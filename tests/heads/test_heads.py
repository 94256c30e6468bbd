"""Every head: it learns, repeats itself, honours weights, takes views, and survives what data can do to it."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge

from cnn_tl.core.errors import DivergedError, RecipeError
from cnn_tl.core.statistics import softmax
from cnn_tl.heads import HEADS, FittedHead, Problem, class_weights, logistic, ridge, whole_fit
from cnn_tl.heads.arrays import DeviceArrays, HostArrays
from cnn_tl.heads.calibration import best_factor, temperature_of
from cnn_tl.heads.cross_entropy import CrossEntropy
from cnn_tl.heads.folds import stratified_folds, stratified_sample
from cnn_tl.heads.scaling import TEMPERED, scaling_of
from cnn_tl.recipe.defaults import HEAD_DEFAULTS
from cnn_tl.recipe.resolved import AdamwHead

KINDS = sorted(HEADS)
NAMES = ("ash", "birch", "cedar")


def blobs(
    images: int = 90, features: int = 12, classes: int = 3, spread: float = 1.5
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    chance = np.random.default_rng(1)
    centres = chance.normal(size=(classes, features))
    labels = np.arange(images) % classes
    rows = (centres[labels] + spread * chance.normal(size=(images, features))) * np.logspace(-2, 2, features) + 5
    return rows.astype(np.float32), labels


def fit(kind: str, features: Any, labels: Any, weights: Any = None, seed: int = 0, **settings: Any) -> FittedHead:
    views = features if isinstance(features, list) else [features]
    classes = int(labels.max()) + 1
    counts = np.ones(classes) if weights is None else np.asarray(weights, float)
    chosen = HEAD_DEFAULTS[kind].model_copy(update=settings)  # type: ignore[index]
    return HEADS[kind](Problem(views, labels, classes, counts, seed), chosen)  # type: ignore[index]


def accuracy(head: FittedHead, features: Any, labels: Any) -> float:
    return float((head.logits(features).argmax(1) == labels).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_each_head_learns_and_repeats_itself(kind: str) -> None:
    features, labels = blobs(spread=0.5)
    first, second = fit(kind, features, labels, seed=3), fit(kind, features, labels, seed=3)
    assert first.tensors.keys() == second.tensors.keys()
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert all(array.dtype == np.float32 for array in first.tensors.values())
    assert accuracy(first, features, labels) > 0.85
    assert first.logits(features).dtype == np.float32
    assert (first.spec is None) == (kind != "knn")
    if first.spec is None:
        assert {name: array.shape for name, array in first.tensors.items()} == {"weight": (3, 12), "bias": (3,)}
        logits = features.astype(np.float64) @ first.tensors["weight"].T + first.tensors["bias"]
        np.testing.assert_allclose(first.logits(features), logits, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [6, 40])
def test_fewer_images_than_features(kind: str, images: int) -> None:
    features, labels = blobs(images=images, features=64, spread=0.3)
    assert accuracy(fit(kind, features, labels), features, labels) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_that_never_changes_does_no_harm(kind: str) -> None:
    features, labels = blobs(spread=0.5)
    features[:, 3] = 7.0
    head = fit(kind, features, labels)
    assert all(np.isfinite(array).all() for array in head.tensors.values())
    features[:, 3] = 7.5
    assert np.isfinite(head.logits(features)).all()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_rounding_noise_is_not_blown_up(exponent: float) -> None:
    """A feature that is 7 but for the last bit says nothing about the images."""
    features, _ = blobs()
    features = (features - 5) * 1e-3
    features[:, 3] = np.where(np.arange(len(features)) % 2, np.float32(7), np.nextafter(np.float32(7), np.float32(8)))
    scaled = scaling_of(features, exponent)(features)
    assert np.abs(scaled[:, 3]).max() < 1e-5
    others = np.delete(scaled, 3, axis=1)
    assert np.square(others).mean() == pytest.approx(1, rel=1e-3)
    left = others.std(0) / np.delete(features, 3, axis=1).std(0, dtype=np.float64) ** (1 - exponent)
    np.testing.assert_allclose(left / left[0], 1, rtol=1e-3)


@pytest.mark.parametrize("kind", ["lbfgs", "ridge"])
def test_features_that_hardly_vary_do_not_outvote_the_rest(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels near the edge of a digit are nearly always empty: divided by their whole deviation, they are as large."""
    digits = load_digits()
    rows, labels = digits.data.astype(np.float32), digits.target.astype(np.int64)
    wrong = {TEMPERED: 0, 1.0: 0}
    for exponent, draw in itertools.product(wrong, range(3)):
        shuffled = np.random.default_rng(draw).permutation(len(rows))
        drawn = np.concatenate([shuffled[labels[shuffled] == k][:10] for k in range(10)])
        for module in (logistic, ridge):
            monkeypatch.setattr(module, "TEMPERED", exponent)
        head = fit(kind, rows[drawn], labels[drawn])
        assert head.facts["scaling_exponent"] == exponent
        wrong[exponent] += int((head.logits(rows).argmax(1) != labels).sum())
    assert wrong[TEMPERED] < 0.95 * wrong[1.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(kind: str, value: float) -> None:
    features, labels = blobs()
    features[5, 5] = value
    with pytest.raises(DivergedError, match=r"run\.precision=fp32"):
        fit(kind, features, labels)


@pytest.mark.parametrize("kind", KINDS)
def test_one_image_in_a_class(kind: str) -> None:
    features, labels = blobs(spread=0.2)
    kept = np.append(np.flatnonzero(labels != 2), np.flatnonzero(labels == 2)[0])
    assert accuracy(fit(kind, features[kept], labels[kept], neighbours=1), features[kept], labels[kept]) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_all_views_are_learned_from(kind: str) -> None:
    features, labels = blobs(spread=0.1)
    elsewhere = features + 3 * np.logspace(-2, 2, 12).astype(np.float32)  # the second view lies elsewhere
    head = fit(kind, [features, elsewhere], labels)
    assert accuracy(head, features, labels) > 0.9
    assert accuracy(head, elsewhere, labels) > 0.9


@pytest.mark.parametrize("kind", ["adamw", "knn", "lbfgs", "ridge"])
def test_a_heavier_class_is_answered_more_often(kind: str) -> None:
    features, labels = blobs(images=300, spread=6.0)
    plain, heavy = fit(kind, features, labels), fit(kind, features, labels, weights=[1, 1, 20])
    answers = [(head.logits(features).argmax(1) == 2).sum() for head in (plain, heavy)]
    assert answers[1] > answers[0] + 20


def test_a_prototype_takes_weights_that_are_named_as_a_prior() -> None:
    features, labels = blobs(images=300, spread=6.0)
    plain = fit("prototype", features, labels)
    heavy = fit("prototype", features, labels, weights=[1, 1, 1e4], class_weights={"cedar": 1e4})
    assert (heavy.logits(features).argmax(1) == 2).sum() > (plain.logits(features).argmax(1) == 2).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_is_heard(kind: str) -> None:
    features, labels = blobs()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        HEADS[kind](Problem([features], labels, 3, np.ones(3), 0, stop), HEAD_DEFAULTS[kind])  # type: ignore[index]


@pytest.mark.numbers
@pytest.mark.parametrize(
    ("images", "features", "classes", "spread"), [(36, 256, 3, 0.3), (60, 32, 3, 6.0), (200, 64, 4, 2.0)]
)
def test_the_head_moves_no_further_than_the_features(
    images: int, features: int, classes: int, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processors round features differently in the last bit; no head may look different for that."""
    chance = np.random.default_rng(0)
    labels = np.arange(images) % classes
    rows = chance.normal(size=(classes, features))[labels] + spread * chance.normal(size=(images, features))
    rounded = rows * (1 + 1e-7 * chance.normal(size=rows.shape))
    for limit, least in ((whole_fit.EXACT, 1e-5), (0, 1e-3)):  # in float64, and as larger problems in float32
        monkeypatch.setattr(whole_fit, "EXACT", limit)
        head, other = (fit("lbfgs", array.astype(np.float32), labels) for array in (rows, rounded))
        weight, moved = head.tensors["weight"], other.tensors["weight"]
        assert head.facts["penalty"] == other.facts["penalty"]
        assert np.linalg.norm(moved - weight) < least * np.linalg.norm(weight)


def test_what_a_fit_is_sure_of_still_counts() -> None:
    """In float32 1 - p of a label rounds to 0 from a margin of 17 on; its loss and its gradient do not."""
    margins = np.array([-30.0, -5.0, 0.0, 5.0, 16.0, 20.0, 40.0])
    features = np.stack([margins, np.zeros(7), np.full(7, -50.0)], axis=1).astype(np.float32)
    for arrays in (HostArrays(), DeviceArrays("cpu")):
        loss = CrossEntropy(arrays, arrays.put(features), np.zeros(7, np.int64), np.eye(7, dtype=np.float32), 3)
        theta = arrays.put(np.tile(np.eye(3, 4), (7, 1, 1)))  # the logits are the features; each row is a fold
        np.testing.assert_allclose(loss.log_loss(theta), np.tile(np.logaddexp(0, -margins), (7, 1)), rtol=1e-6)
        value, gradient = (arrays.host(each) for each in loss(theta))
        np.testing.assert_allclose(value, np.logaddexp(0, -margins), rtol=1e-6)
        np.testing.assert_allclose(gradient[:, 0, 3], -1 / (1 + np.exp(margins)), rtol=1e-6)
        np.testing.assert_allclose(gradient[:, :, 3].sum(1), 0, atol=1e-7)


def test_logistic_agrees_with_scikit_learn() -> None:
    features, labels = blobs()
    penalty, weights = 0.03, np.array([1.0, 2.0, 0.5])
    head = fit("lbfgs", features, labels, weights, penalty=penalty)
    scaled = scaling_of(features, TEMPERED)(features)
    counts = weights[labels] / weights[labels].mean()
    theirs = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=5000)
    theirs.fit(scaled, labels, sample_weight=counts)
    np.testing.assert_allclose(softmax(head.logits(features)), theirs.predict_proba(scaled), atol=2e-3)


@pytest.mark.parametrize("features", [12, 60, 200])
def test_the_axes_of_a_sample_change_nothing(features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not they span all images, they only precondition the fit."""
    rows, labels = blobs(images=150, features=features)
    ours = fit("lbfgs", rows, labels, penalty=0.1)
    monkeypatch.setattr(logistic, "CROSS_VALIDATION_IMAGES", 30)
    whole = fit("lbfgs", rows, labels, penalty=0.1)
    np.testing.assert_allclose(ours.logits(rows), whole.logits(rows), atol=1e-4)


def test_the_penalty_is_chosen_by_held_out_loss() -> None:
    noisy, clean = (fit("lbfgs", *blobs(spread=spread)) for spread in (4.0, 0.1))
    assert noisy.facts["penalty"] > clean.facts["penalty"]
    assert noisy.facts["penalty_chosen"]
    noisy, clean = (fit("ridge", *blobs(images=90, features=60, spread=spread)) for spread in (6.0, 0.05))
    assert noisy.facts["penalty"] > clean.facts["penalty"]


def test_the_penalty_is_scaled_from_the_rows_of_a_fold_to_all_rows() -> None:
    """Images that are alone in their class are fitted on in every fold: 42 of 50 rows here, not four fifths."""
    features, labels = blobs(images=50, classes=2)
    labels[40:] = np.arange(2, 12)
    halves = 2 * np.log10(fit("lbfgs", features, labels).facts["penalty"] / (42 / 50))
    assert halves == pytest.approx(round(halves), abs=1e-6)


def hard(signal: float = 0.2) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return images of which fewer are there than features, with a little in each feature that tells their class."""
    chance = np.random.default_rng(0)
    labels = np.arange(240) % 8
    centres = chance.normal(size=(8, 320))
    return (signal * centres[labels] + chance.normal(size=(240, 320))).astype(np.float32), labels


def test_the_losses_of_cross_validation_are_those_of_fits_that_have_converged() -> None:
    features, labels = hard()
    facts = fit("lbfgs", features, labels).facts
    scaled, folds = scaling_of(features, TEMPERED)(features), stratified_folds(labels, 5, seed=0)
    losses = np.zeros(len(labels))
    for fold in range(5):
        theirs = LogisticRegression(C=1 / (facts["penalty"] * len(labels)), tol=1e-8, max_iter=10_000)
        theirs.fit(scaled[folds != fold], labels[folds != fold])
        held_out = np.flatnonzero(folds == fold)
        losses[held_out] = -np.log(theirs.predict_proba(scaled[held_out])[np.arange(len(held_out)), labels[held_out]])
    assert facts["cross_validation_log_loss"] == pytest.approx(losses.mean(), rel=0.005)


def test_the_penalties_go_on_while_the_last_one_is_the_best() -> None:
    easier = fit("lbfgs", *hard(signal=0.3)).facts
    assert easier["penalty"] < 0.7e-3
    assert easier["penalty_at_edge"], "it is the weakest of all"
    features, labels = blobs(images=60, features=40)
    nothing_to_learn = fit("lbfgs", features, np.random.default_rng(2).permutation(labels)).facts
    assert nothing_to_learn["penalty"] > 3.2
    assert not nothing_to_learn["penalty_at_edge"]


def test_many_classes_do_not_multiply_the_memory_of_the_choice() -> None:
    features, labels = blobs(images=400, features=300, classes=200)
    tracemalloc.start()
    try:
        fit("lbfgs", features, labels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100e6


def test_a_image_alone_in_its_class_does_not_stop_the_choice_of_a_penalty() -> None:
    chosen = []
    for spread in (4.0, 0.1):
        features, labels = blobs(spread=spread)
        kept = np.append(np.flatnonzero(labels != 2), np.flatnonzero(labels == 2)[0])
        facts = fit("lbfgs", features[kept], labels[kept]).facts
        assert facts["cross_validation_log_loss"] is not None
        chosen.append(facts["penalty"])
    assert chosen[0] > chosen[1]
    features, labels = blobs(images=3)
    assert fit("lbfgs", features, labels).facts["cross_validation_log_loss"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_classes(kind: str) -> None:
    features, labels = blobs(images=900, features=40, classes=300, spread=0.1)
    head = fit(kind, features, labels, neighbours=3)
    assert accuracy(head, features, labels) > 0.9


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("features", [5, 80])
def test_ridge_leaves_out_whole_images_exactly(views: int, features: int) -> None:
    """What the hat matrix says is what fits without the image say."""
    from cnn_tl.heads import ridge

    chance = np.random.default_rng(0)
    rows = chance.normal(size=(views * 12, features))
    labels = np.arange(12) % 3
    targets = np.tile(np.eye(3)[labels], (views, 1))
    root = np.sqrt(np.tile(np.linspace(0.5, 1.5, 12), views))[:, None]
    mean_D, mean_K = (np.average(a, axis=0, weights=root[:, 0] ** 2) for a in (rows, targets))
    x, y = root * (rows - mean_D), root * (targets - mean_K)
    left, values, _ = ridge._decomposed(HostArrays(), x)
    penalty = 0.7
    found = ridge._left_out(HostArrays(), left, values / (values + penalty), y, root, 12) + mean_K
    for image in range(12):
        kept = np.tile(np.arange(12), views) != image
        theirs = Ridge(alpha=penalty).fit(rows[kept], targets[kept], sample_weight=root[kept, 0] ** 2)
        np.testing.assert_allclose(found[image], theirs.predict(rows[[image]])[0], atol=1e-6)


def test_ridge_agrees_with_scikit_learn() -> None:
    features, labels = blobs(spread=3.0)
    head = fit("ridge", features, labels, penalty=0.5)
    scaled = scaling_of(features, TEMPERED)(features).astype(np.float64)
    unit = np.square(scaled - scaled.mean(0)).sum() / scaled.shape[1]
    theirs = Ridge(alpha=0.5 * unit).fit(scaled, np.eye(3)[labels])
    np.testing.assert_allclose(head.logits(features), head.facts["factor"] * theirs.predict(scaled), atol=1e-3)


@pytest.mark.parametrize("kind", ["prototype", "ridge"])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_probabilities_are_honest_for_images_not_seen(kind: str, spread: float) -> None:
    """The mean confidence is about the accuracy, whether the task is easy or hard."""
    features, labels = blobs(images=1200, spread=spread)
    head = fit(kind, features[:400], labels[:400])
    confidence = softmax(head.logits(features[400:])).max(1).mean()
    assert abs(confidence - accuracy(head, features[400:], labels[400:])) < 0.06


def test_the_factor_is_the_one_that_was_hidden() -> None:
    chance = np.random.default_rng(0)
    logits = 2 * chance.normal(size=(4000, 3))
    labels = np.array([chance.choice(3, p=row) for row in softmax(logits)])
    factor, _ = best_factor(logits / 30, labels, np.ones(4000))
    assert 25 < factor < 36


@pytest.mark.parametrize("hidden", [7.0, 30.0, 33.3])
def test_the_factor_is_sought_on_no_grid(hidden: float) -> None:
    logits, labels = drawn(4000)
    best = best_factor(logits / hidden, labels, np.ones(4000))[0]
    assert best / best_factor(logits, labels, np.ones(4000))[0] == pytest.approx(hidden, rel=0.005)


def drawn(images: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return logits [N, 3], and labels that are drawn from their softmax, so that T = 1 is the truth."""
    chance = np.random.default_rng(seed)
    logits = 2 * chance.normal(size=(images, 3))
    return logits, np.array([chance.choice(3, p=row) for row in softmax(logits)])


def mean_loss(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("images", [4, 20, 75, 1000])
@pytest.mark.parametrize("hidden", [0.3, 0.9, 1.05, 3.0])
def test_a_temperature_never_raises_the_loss_of_its_images(images: int, hidden: float) -> None:
    for seed in range(3):
        logits, labels = drawn(images, seed)
        found = temperature_of(hidden * logits, labels)
        assert mean_loss(hidden * logits / found, labels) <= mean_loss(hidden * logits, labels) + 1e-9


def test_many_images_find_the_hidden_temperature_and_few_stay_near_1() -> None:
    logits, labels = drawn(4000)
    truth = temperature_of(logits, labels)
    assert truth == pytest.approx(1, abs=0.05)
    assert temperature_of(3 * logits, labels) == pytest.approx(3 * truth, rel=0.02)
    few = [temperature_of(3 * logits[at : at + 4], labels[at : at + 4]) for at in range(0, 400, 4)]
    assert 1.1 < np.exp(np.mean(np.log(few))) < 2.5


@pytest.mark.parametrize("images", [10, 75, 1000])
def test_images_without_a_mistake_make_no_network_surer(images: int) -> None:
    labels = np.arange(images) % 2
    assert temperature_of(8 * np.eye(2)[labels], labels) == 1
    unsure = 0.5 * np.eye(2)[labels]  # right each time, and says so 62 times of 100
    assert temperature_of(unsure, labels) < 1


def test_71_of_75_right_and_about_as_sure_keep_their_loss() -> None:
    """The loss is lowest near 1.05; a grid and smoothed targets made 1.58 of it, and the loss 11 % higher."""
    chance = np.random.default_rng(3)
    gaps = np.where(np.arange(75) < 4, -1.0, chance.uniform(2, 9, 75))
    logits, labels = np.stack([gaps, np.zeros(75), np.full(75, -2.0)], 1), np.zeros(75, int)
    found = temperature_of(logits, labels)
    tried = np.linspace(0.5, 2, 301)
    lowest = tried[np.argmin([mean_loss(logits / t, labels) for t in tried])]
    assert min(1, lowest) - 0.01 <= found <= max(1, lowest) + 0.01
    assert mean_loss(logits / found, labels) <= mean_loss(logits, labels)


def test_nothing_wrong_is_no_reason_to_be_certain() -> None:
    labels = np.arange(100) % 2
    factor, _ = best_factor(np.eye(2)[labels], labels, np.ones(100))
    assert softmax(factor * np.eye(2))[0, 1] > 1e-3


@pytest.mark.parametrize("views", [1, 2])
def test_a_prototype_leaves_out_whole_images_exactly(views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_tl.heads import prototype

    found: list[NDArray[np.float64]] = []
    monkeypatch.setattr(prototype, "best_factor", lambda scores, *_: (found.append(scores), (1.0, 0.0))[1])
    chance = np.random.default_rng(0)
    rows, labels = chance.normal(size=(views, 9, 4)).astype(np.float32), np.arange(9) % 3
    fit("prototype", list(rows), labels)
    scaled = scaling_of(rows.reshape(-1, 4))(rows.reshape(-1, 4)).reshape(rows.shape).astype(np.float64)
    middles = np.stack([scaled[:, labels == k].reshape(-1, 4).mean(0) for k in range(3)])
    variance = np.square(scaled - middles[labels]).sum(2).mean()
    for image in range(9):
        others = np.arange(9) != image
        means = np.stack([scaled[:, others & (labels == k)].reshape(-1, 4).mean(0) for k in range(3)])
        expected = (means @ scaled[0, image] - np.square(means).sum(1) / 2) / variance
        np.testing.assert_allclose(found[0][image], expected, atol=1e-6)


def test_nearest_neighbours_are_nearest() -> None:
    features, labels = blobs(spread=0.5)
    head = fit("knn", features, labels, neighbours=1)
    assert accuracy(head, features, labels) == 1.0
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    query = features[:5] + 0.01
    nearest = ((query / np.linalg.norm(query, axis=1, keepdims=True)) @ unit.T).argmax(1)
    assert np.array_equal(head.logits(query).argmax(1), labels[nearest])


@pytest.mark.parametrize("hidden", [None, 16])
def test_adamw_options(hidden: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    features, labels = blobs(spread=0.5)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPU's generators were seeded"))
    head = fit("adamw", features, labels, hidden=hidden, dropout=0.2, label_smoothing=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    assert accuracy(head, features, labels) > 0.95
    assert (head.spec is None) == (hidden is None)
    other = fit("adamw", features, labels, hidden=hidden, dropout=0.2, seed=1)
    assert any(not np.array_equal(head.tensors[name], other.tensors[name]) for name in head.tensors)


def test_adamw_says_when_it_diverges() -> None:
    features, labels = blobs()
    with pytest.raises(DivergedError, match=r"head\.lr"):
        fit("adamw", features, labels, hidden=4, lr=1e30, epochs=3, weight_decay=0)


def test_class_weights() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    assert class_weights("none", labels, NAMES).tolist() == [1, 1, 1]
    balanced = class_weights("balanced", labels, NAMES)
    assert (balanced[labels].sum(), balanced[0] * 4, balanced[1] * 2) == pytest.approx((8, 8 / 3, 8 / 3))
    assert class_weights({"cedar": 3.0}, labels, NAMES).tolist() == [1, 1, 3]
    with pytest.raises(RecipeError, match=r"^head\.class_weights names 'oak'"):
        class_weights({"oak": 2.0}, labels, NAMES)
    with pytest.raises(RecipeError, match=r"^train\.class_weights names 'oak'"):
        class_weights({"oak": 2.0}, labels, NAMES, key="train.class_weights")


def test_folds_deal_every_class_out_evenly() -> None:
    labels = np.repeat([0, 1, 2], [50, 11, 7])
    folds = stratified_folds(labels, 5, seed=0)
    for k in range(3):
        counts = np.bincount(folds[labels == k], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(folds).max() - np.bincount(folds).min() <= 1
    assert not np.array_equal(folds, stratified_folds(labels, 5, seed=1))


def test_the_sample_for_the_penalty_keeps_every_class() -> None:
    labels = np.repeat([0, 1, 2], [10_000, 300, 6])
    kept = stratified_sample(labels, 2_000, 5, seed=0)
    counts = np.bincount(labels[kept])
    assert counts[2] == 5
    assert 1_900 < len(kept) < 2_100
    assert (np.diff(kept) > 0).all()


def test_heads_need_no_torch_but_adamw() -> None:
    import subprocess
    import sys

    code = (
        "import sys, numpy as np\nfrom cnn_tl.heads import HEADS, Problem\n"
        "from cnn_tl.recipe.defaults import HEAD_DEFAULTS\n"
        "rows = np.random.default_rng(0).normal(size=(30, 4)).astype('f')\n"
        "problem = Problem([rows], np.arange(30) % 3, 3, np.ones(3), 0)\n"
        "[HEADS[kind](problem, HEAD_DEFAULTS[kind]) for kind in HEADS if kind != 'adamw']\n"
        "assert not {'torch', 'timm', 'sklearn'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sections_are_resolved() -> None:
    assert set(HEADS) == set(HEAD_DEFAULTS)
    assert all(settings.kind == kind for kind, settings in HEAD_DEFAULTS.items())


def test_what_is_held_out_is_judged_by_its_plain_view() -> None:
    """Views that say nothing are learned from, and are nobody's answer."""
    features, labels = blobs(60, 4, 2, spread=0.1)
    blank = np.broadcast_to(features.mean(0), features.shape).astype(np.float32)
    facts = fit("lbfgs", [features, blank], labels).facts
    assert facts["cross_validation_log_loss"] < 0.15, "half of it would be that of a guess, 0.69 / 2"


def test_a_calibration_counts_images_by_their_weights() -> None:
    """Right and sure for some, wrong for others: how sure one may be depends on who counts."""
    scores = np.array([[1.0, 0], [1.0, 0]] * 20)
    labels = np.array([0, 1] * 20)
    mostly_right, mostly_wrong = (np.where(labels == 0, *pair) for pair in ((9.0, 1.0), (1.0, 9.0)))
    factor, likelihood = best_factor(scores, labels, mostly_right)
    assert 1 / (1 + np.exp(-factor)) == pytest.approx(0.9, abs=0.04), "sure in nine of ten"
    assert best_factor(scores, labels, mostly_wrong)[0] < factor
    assert likelihood > best_factor(scores, labels, np.ones(40))[1]


def adamw_by_hand(features: Any, labels: Any, head: AdamwHead) -> tuple[Any, Any]:
    """Return weight and bias of a linear head after full batches of torch's own loss and optimiser."""
    import torch
    from torch.nn.functional import cross_entropy

    x = torch.from_numpy((features - features.mean(0)) / features.std(0)).float()
    y = torch.from_numpy(labels)
    linear = torch.nn.Linear(x.shape[1], int(labels.max()) + 1)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    groups = [{"params": [linear.weight], "weight_decay": head.weight_decay}, {"params": [linear.bias]}]
    optimizer = torch.optim.AdamW(groups, lr=1, weight_decay=0)
    assert head.epochs is not None
    assert head.lr is not None
    warm = round(0.1 * head.epochs)
    for step in range(head.epochs):
        after = (step - warm) / (head.epochs - warm)
        factor = (step + 1) / (warm + 1) if step < warm else 0.5 * (1 + np.cos(np.pi * after))
        for group in optimizer.param_groups:
            group["lr"] = head.lr * factor
        optimizer.zero_grad()
        cross_entropy(linear(x), y, label_smoothing=head.label_smoothing or 0.0).backward()
        optimizer.step()
    weight = linear.weight.detach().numpy().astype(np.float64) / features.std(0)
    return weight, linear.bias.detach().numpy() - weight @ features.mean(0)


@pytest.mark.parametrize(
    "settings",
    [{"label_smoothing": 0.0, "weight_decay": 0.0}, {"label_smoothing": 0.3}, {"weight_decay": 5.0}, {"lr": 0.05}],
    ids=str,
)
def test_an_adamw_head_is_what_torch_does(settings: dict[str, float]) -> None:
    features, labels = blobs(60, 5)
    settings = {"epochs": 20, "batch_size": 60, "dropout": 0.0, "lr": 0.01} | settings
    made = fit("adamw", features, labels, **settings)
    weight, bias = adamw_by_hand(features, labels, HEAD_DEFAULTS["adamw"].model_copy(update=settings))
    np.testing.assert_allclose(made.tensors["weight"], weight, rtol=2e-3, atol=1e-4 * np.abs(weight).max())
    np.testing.assert_allclose(made.tensors["bias"], bias, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize(("batch_size", "steps"), [(90, 2), (30, 6), (32, 6), (200, 2)])
def test_an_adamw_head_takes_its_batches_and_its_dropout(
    batch_size: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn_tl.heads import adamw

    seen: list[tuple[int, float]] = []

    def dropout(x: Any, p: float) -> Any:
        seen.append((len(x), p))
        return x

    monkeypatch.setattr(adamw.F, "dropout", dropout)
    features, labels = blobs(90)
    fit("adamw", features, labels, epochs=2, batch_size=batch_size, dropout=0.37)
    assert len(seen) == steps
    assert sum(count for count, _ in seen) == 2 * 90
    assert max(count for count, _ in seen) == min(batch_size, 90)
    assert {p for _, p in seen} == {0.37}


@pytest.mark.parametrize("shape", [(1, 5), (65, 3), (128, 1), (225, 40)])
def test_the_deviation_is_that_of_numpy(shape: tuple[int, int]) -> None:
    rows = (np.random.default_rng(0).normal(size=shape) * np.logspace(-2, 2, shape[1]) + 5).astype(np.float32)
    deviation = rows.std(0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(scaling_of(rows).scale, np.where(deviation > 0, deviation, 1))


def test_one_class_alone_can_be_fitted() -> None:
    """Nothing is wrong anywhere, so the objective falls towards 0."""
    features, _ = blobs(40, 6)
    problem = Problem([features], np.zeros(40, np.int64), 3, np.ones(3), seed=0)
    head = HEADS["lbfgs"](problem, HEAD_DEFAULTS["lbfgs"])
    assert accuracy(head, features, np.zeros(40)) == 1


@pytest.mark.parametrize("classes", [2, 20])
def test_the_curvature_of_all_rows_changes_the_steps_alone(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = blobs(images=300, features=90, classes=classes)
    monkeypatch.setattr(logistic, "CROSS_VALIDATION_IMAGES", 50)
    monkeypatch.setattr(logistic, "FOLDS", 2)
    found = []
    for wide in (0, 10**6):
        monkeypatch.setattr(whole_fit, "WIDE", wide)
        found.append(fit("lbfgs", features, labels, penalty=1e-3))
    assert found[0].facts["iterations"] != found[1].facts["iterations"]
    np.testing.assert_allclose(found[0].logits(features), found[1].logits(features), atol=1e-3)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_tl.heads import arrays, cross_entropy

    features, labels = blobs(images=1_500, features=30, spread=4.0)
    monkeypatch.setattr(cross_entropy, "WORTH_THREADS", 0)
    heads, threads = [], []
    for cores in (1, 5):
        monkeypatch.setattr(arrays, "usable", lambda cores=cores: threads.append(cores) or cores)
        heads.append(fit("lbfgs", features, labels, penalty=1e-3))
    assert threads == [1, 5], "each fit has started threads of its own"
    np.testing.assert_array_equal(heads[0].tensors["weight"], heads[1].tensors["weight"])


@pytest.mark.parametrize("images", [40, 1_200])
def test_features_that_say_nothing_at_all(images: int) -> None:
    """They have no axes; the bias answers with the classes' shares."""
    labels = (np.arange(images) % 4 == 0).astype(np.int64)
    head = fit("lbfgs", np.full((images, 6), 3, np.float32), labels)
    np.testing.assert_allclose(softmax(head.logits(np.full((1, 6), 3, np.float32)))[0], [0.75, 0.25], atol=1e-3)
