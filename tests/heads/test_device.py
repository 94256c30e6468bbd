"""Fits by torch on a device find what numpy finds on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cnn_tl.core.choices import HeadKind
from cnn_tl.core.statistics import softmax
from cnn_tl.heads import HEADS, FittedHead, Problem, arrays
from cnn_tl.heads.arrays import DeviceArrays
from cnn_tl.heads.scaling import TEMPERED, scaling_of
from cnn_tl.recipe.defaults import HEAD_DEFAULTS

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def fit(
    device: str,
    views: list[NDArray[np.float32]],
    labels: NDArray[np.int64],
    kind: HeadKind = "lbfgs",
    **settings: object,
) -> FittedHead:
    """Fit by torch on a device; on the host by numpy if it is ""."""
    classes = int(labels.max()) + 1
    weights = np.linspace(0.5, 1.5, classes)
    problem = Problem(views, labels, classes, weights, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        if device:
            patch.setattr(arrays, "HostArrays", lambda: DeviceArrays(device))
        return HEADS[kind](problem, HEAD_DEFAULTS[kind].model_copy(update=settings))


def draw(
    images: int, features: int, classes: int, spread: float, views: int = 1
) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    chance = np.random.default_rng(0)
    labels = np.arange(images) % classes
    centres = chance.normal(size=(classes, features))
    scales = np.logspace(-1, 1, features)
    drawn = [(centres[labels] + spread * chance.normal(size=(images, features))) * scales + 2 for _ in range(views)]
    return [view.astype(np.float32) for view in drawn], labels


def objective(head: FittedHead, views: list[NDArray[np.float32]], labels: NDArray[np.int64]) -> float:
    rows, image_labels = np.concatenate(views), np.tile(labels, len(views))
    weights = np.linspace(0.5, 1.5, int(labels.max()) + 1)[image_labels]
    weight = head.tensors["weight"].astype(np.float64)
    logits = rows.astype(np.float64) @ weight.T + head.tensors["bias"]
    own = logits[np.arange(len(logits)), image_labels]
    losses = np.logaddexp.reduce(logits, axis=1) - own
    squares = np.square(weight * scaling_of(rows, TEMPERED).scale).sum()
    return float(np.average(losses, weights=weights) + head.facts["penalty"] / 2 * squares)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(
    ("images", "features", "classes", "spread", "views"),
    [
        (90, 12, 3, 1.5, 1),
        (60, 200, 2, 1.0, 1),
        (300, 40, 100, 0.3, 1),
        (80, 30, 4, 2.0, 3),
        (120, 20, 3, 0.01, 1),  # separable
        (1_300, 60, 3, 2.0, 1),  # the penalty is chosen on a sample, which spans the features
        (1_200, 1_100, 3, 4.0, 1),  # and one that does not
    ],
)
def test_the_device_finds_what_the_host_finds(
    device: str, images: int, features: int, classes: int, spread: float, views: int
) -> None:
    shown, labels = draw(images, features, classes, spread, views)
    host, theirs = fit("", shown, labels), fit(device, shown, labels)
    assert theirs.facts["penalty"] == host.facts["penalty"]
    assert theirs.facts.keys() == host.facts.keys()
    assert theirs.facts["cross_validation_log_loss"] == pytest.approx(host.facts["cross_validation_log_loss"], rel=1e-3)
    assert objective(theirs, shown, labels) == pytest.approx(objective(host, shown, labels), rel=1e-6)
    for rows in shown:
        np.testing.assert_allclose(softmax(theirs.logits(rows)), softmax(host.logits(rows)), atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("penalty", [1e-5, 1e-2, 10.0])
def test_a_penalty_that_is_given(device: str, penalty: float) -> None:
    shown, labels = draw(200, 50, 5, 1.0)
    host, theirs = fit("", shown, labels, penalty=penalty), fit(device, shown, labels, penalty=penalty)
    assert host.facts["converged"]
    assert theirs.facts["penalty"] == host.facts["penalty"] == penalty
    assert objective(theirs, shown, labels) == pytest.approx(objective(host, shown, labels), rel=1e-6)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(
    ("images", "features", "classes", "views"),
    [(90, 12, 3, 1), (60, 200, 2, 1), (80, 30, 4, 3), (300, 40, 100, 1), (1_700, 1_600, 3, 1)],
)
def test_ridge_is_the_same_on_a_device(device: str, images: int, features: int, classes: int, views: int) -> None:
    shown, labels = draw(images, features, classes, 2.0, views)
    host, theirs = fit("", shown, labels, "ridge"), fit(device, shown, labels, "ridge")
    assert theirs.facts["penalty"] == host.facts["penalty"]
    assert theirs.facts["left_out_accuracy"] == pytest.approx(host.facts["left_out_accuracy"])
    assert theirs.facts["factor"] == pytest.approx(host.facts["factor"], rel=1e-2)  # sought to a tenth of a percent
    np.testing.assert_allclose(softmax(theirs.logits(shown[0])), softmax(host.logits(shown[0])), atol=1e-3)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("views", [1, 3])
def test_both_together_are_the_same_on_a_device(device: str, views: int) -> None:
    shown, labels = draw(200, 60, 8, 2.0, views)
    host, theirs = fit("", shown, labels, "lbfgs+ridge"), fit(device, shown, labels, "lbfgs+ridge")
    assert theirs.facts["share_of_ridge"] == host.facts["share_of_ridge"]
    assert theirs.facts["held_out_log_loss"] == pytest.approx(host.facts["held_out_log_loss"], rel=1e-3)
    np.testing.assert_allclose(softmax(theirs.logits(shown[0])), softmax(host.logits(shown[0])), atol=1e-3)


def test_a_device_without_memory_leaves_the_fit_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def full(device: str) -> DeviceArrays:
        tried.append(device)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(arrays, "DeviceArrays", full)
    assert arrays.compute(arrays.SMALL - 1, "cuda:0", lambda where: where.shares_rows)
    assert not tried, "what is small never goes there"
    assert arrays.compute(arrays.SMALL, "cpu", lambda where: where.shares_rows)
    assert not tried
    assert arrays.compute(arrays.SMALL, "cuda:0", lambda where: where.shares_rows)
    assert tried == ["cuda:0"]


def test_another_error_of_a_device_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: str) -> DeviceArrays:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(arrays, "DeviceArrays", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        arrays.compute(arrays.SMALL, "cuda:0", lambda where: where.shares_rows)
