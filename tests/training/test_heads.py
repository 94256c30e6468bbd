from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from cnn_tl.errors import DivergedError
from cnn_tl.training import heads


def blobs(
    pictures: int = 90, features: int = 12, classes: int = 3, spread: float = 1.5
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(classes, features, generator=generator)
    labels = torch.arange(pictures) % classes
    scale = torch.logspace(-2, 2, features)
    return (centres[labels] + spread * torch.randn(pictures, features, generator=generator)) * scale + 5, labels


def test_logistic_agrees_with_scikit_learn() -> None:
    features, labels = blobs()
    penalty = 0.03
    head = heads.fit_logistic(features, labels, 3, penalty=penalty, seed=0)
    standard = (features - features.mean(0)) / features.std(0, correction=0)
    theirs = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-10, max_iter=5000)
    theirs.fit(standard.numpy(), labels.numpy())
    ours = F.linear(features, head.weight, head.bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(standard.numpy()), atol=2e-4)


def test_penalty_is_chosen_by_held_out_loss() -> None:
    features, labels = blobs(spread=4.0)
    noisy = heads.fit_logistic(features, labels, 3, penalty=None, seed=0)
    clean = heads.fit_logistic(*blobs(spread=0.1), 3, penalty=None, seed=0)
    assert noisy.facts["penalty"] > clean.facts["penalty"]
    assert noisy.facts["penalty_chosen"]


@pytest.mark.parametrize("kind", sorted(heads.HEADS))
def test_each_head_learns_is_linear_and_repeats_itself(kind: str) -> None:
    features, labels = blobs(spread=0.5)
    first, second = (heads.HEADS[kind](features, labels, 3, penalty=None, seed=3) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.weight.shape == (3, 12)
    assert first.bias.shape == (3,)
    accuracy = (F.linear(features, first.weight, first.bias).argmax(1) == labels).float().mean()
    assert accuracy > 0.95


@pytest.mark.parametrize("kind", sorted(heads.HEADS))
def test_a_feature_that_never_changes_does_no_harm(kind: str) -> None:
    features, labels = blobs(spread=0.5)
    features[:, 3] = 7.0
    head = heads.HEADS[kind](features, labels, 3, penalty=None, seed=0)
    assert head.weight.isfinite().all()
    assert head.bias.isfinite().all()


@pytest.mark.parametrize("kind", sorted(heads.HEADS))
def test_features_that_are_not_finite_are_refused(kind: str) -> None:
    features, labels = blobs()
    features[4, 2] = float("nan")
    with pytest.raises(DivergedError, match="NaN"):
        heads.HEADS[kind](features, labels, 3, penalty=None, seed=0)


def test_one_picture_in_a_class_takes_a_middling_penalty() -> None:
    features, _ = blobs()
    labels = torch.zeros(90, dtype=torch.long)
    labels[0] = 1
    head = heads.fit_logistic(features, labels, 2, penalty=None, seed=0)
    assert head.facts["penalty"] == pytest.approx(0.1)


def test_the_sample_for_the_penalty_keeps_every_class() -> None:
    labels = torch.cat([torch.zeros(9_990), torch.ones(10)]).long()
    keep = heads._stratified_sample(labels, 500, seed=0)
    assert torch.bincount(labels[keep]).tolist() == [500, 5]
    assert len(keep.unique()) == len(keep)
