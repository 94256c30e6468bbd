"""Losses beside their formulas, and where float32 ends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cnn_tl.recipe.defaults import MODE_TRAIN
from cnn_tl.recipe.resolved import LoopTrain
from cnn_tl.training.step.loss import make_loss, targets

CLASSES = 3

LOGITS_NK = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0)) * 3
LABELS_N = torch.tensor([0, 1, 2, 2, 1, 0])
WEIGHTS_K = torch.tensor([0.2, 1.0, 3.5])


def train(**chosen: object) -> LoopTrain:
    """Return the settings of mode finetune with some of them chosen."""
    return MODE_TRAIN["finetune"].model_copy(update=chosen)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("weights_K", [None, WEIGHTS_K], ids=["alike", "weighted"])
@pytest.mark.parametrize("settings", [train(loss="cross-entropy"), train(loss="focal", focal_gamma=0)], ids=str)
def test_cross_entropy_is_torchs_own(settings: LoopTrain, weights_K: torch.Tensor | None, smoothing: float) -> None:
    ours_N = make_loss(settings, weights_K)(LOGITS_NK, targets(LABELS_N, CLASSES, smoothing))
    theirs_N = F.cross_entropy(LOGITS_NK, LABELS_N, weights_K, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours_N, theirs_N)


def test_targets_by_hand() -> None:
    expected = torch.tensor([[0.04, 0.04, 0.92], [0.92, 0.04, 0.04]])
    torch.testing.assert_close(targets(torch.tensor([2, 0]), CLASSES, 0.12), expected)


def test_class_weights_count_in_the_focal_loss_too() -> None:
    focal = train(loss="focal", focal_gamma=1.5)
    targets_NK = targets(LABELS_N, CLASSES, 0.0)
    plain_N, weighted_N = (make_loss(focal, weights)(LOGITS_NK, targets_NK) for weights in (None, WEIGHTS_K))
    torch.testing.assert_close(weighted_N, WEIGHTS_K[LABELS_N] * plain_N)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("certainty", [0.0, 5.0, 15.0, 16.0, 17.0, 20.0, 200.0])
def test_focal_loss_is_its_formula_and_has_a_finite_gradient(gamma: float, certainty: float) -> None:
    logits_NK = torch.tensor([[certainty, 0, 0], [-certainty, 0, 0]], requires_grad=True)
    targets_NK = targets(torch.tensor([0, 0]), CLASSES, smoothing=0.1)
    loss_N = make_loss(train(loss="focal", focal_gamma=gamma), None)(logits_NK, targets_NK)
    loss_N.sum().backward()  # type: ignore[no-untyped-call]
    assert logits_NK.grad is not None
    assert logits_NK.grad.isfinite().all()

    log_p_NK = torch.log_softmax(logits_NK.detach().double(), dim=1)
    exact_N = -(targets_NK * (1 - log_p_NK.exp()) ** gamma * log_p_NK).sum(1)
    torch.testing.assert_close(loss_N.detach().double(), exact_N, atol=1e-6, rtol=1e-6)


def test_a_slope_that_is_right_where_there_is_doubt() -> None:
    logits_NK = torch.tensor([[2.0, 0, -1]], dtype=torch.float64, requires_grad=True)
    loss = make_loss(train(loss="focal", focal_gamma=0.5), None)
    loss(logits_NK, targets(torch.tensor([0]), CLASSES, 0)).sum().backward()  # type: ignore[no-untyped-call]
    p_K = logits_NK.detach().softmax(1)[0]
    doubt = 1 - p_K[0]
    by_p = 0.5 * doubt**-0.5 * p_K[0].log() - doubt**0.5 / p_K[0]
    slopes_K = by_p * p_K[0] * (torch.tensor([1.0, 0, 0], dtype=torch.float64) - p_K)
    assert logits_NK.grad is not None
    torch.testing.assert_close(logits_NK.grad[0], slopes_K, atol=1e-6, rtol=1e-5)
