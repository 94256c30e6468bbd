"""The gradients of a step, in parts and whole, beside those of torch's own loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_tl.recipe.defaults import MODE_TRAIN
from cnn_tl.training.step.gradients import Gradients
from cnn_tl.training.step.loss import make_loss, targets

N, D, K = 7, 5, 3


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(N, D, generator=draw), torch.tensor([0, 1, 2, 1, 0, 2, 2])


def linear() -> nn.Linear:
    model = nn.Linear(D, K)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    return model


def gradients_of(model: nn.Module, micro_batch: int, seed: int = 0) -> Gradients:
    loss = make_loss(MODE_TRAIN["finetune"], None)
    return Gradients(model, loss, torch.device("cpu"), "fp32", seed, micro_batch, note=pytest.fail)


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 6, 7, 50])
def test_parts_of_any_size_add_up_to_the_mean_over_the_whole(micro_batch: int) -> None:
    x_ND, labels_N = batch()
    ours, theirs = linear(), linear()
    losses = gradients_of(ours, micro_batch).add(x_ND, targets(labels_N, K, 0.0), step=0)
    F.cross_entropy(theirs(x_ND), labels_N).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(losses, F.cross_entropy(theirs(x_ND), labels_N, reduction="sum")[None].detach())
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_share_of_a_step_counts_as_much_as_its_images_do() -> None:
    """Two shares of one step, one after the other, give what the whole step gives."""
    x_ND, labels_N = batch()
    ours, theirs = linear(), linear()
    gradients = gradients_of(ours, 2)
    for own in (slice(0, 4), slice(4, N)):
        gradients.add(x_ND[own], targets(labels_N[own], K, 0.0), step=0, first=own.start, total=N)
    F.cross_entropy(theirs(x_ND), labels_N).backward()  # type: ignore[no-untyped-call]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_what_an_auxiliary_classifier_says_counts_by_its_weight() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = linear(), linear()

        def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
            return self.main(x_ND), self.aux(x_ND)

    x_ND, labels_N = batch()
    model, alone = Two(), linear()
    gradients = gradients_of(model, 3)
    gradients.aux_weight = 0.3
    main, aux = gradients.add(x_ND, targets(labels_N, K, 0.0), step=0).tolist()
    loss = F.cross_entropy(alone(x_ND), labels_N)
    loss.backward()  # type: ignore[no-untyped-call]
    assert (main, aux) == pytest.approx((N * loss.item(), N * loss.item()))
    assert alone.weight.grad is not None
    torch.testing.assert_close(model.main.weight.grad, alone.weight.grad)
    torch.testing.assert_close(model.aux.weight.grad, 0.3 * alone.weight.grad)


def test_dropout_is_a_function_of_the_seed_the_step_and_the_part() -> None:
    x_ND, labels_N = batch()

    def gradient(seed: int, step: int, first: int = 0) -> Tensor:
        model = nn.Sequential(nn.Dropout(0.5), linear())
        gradients = gradients_of(model, N, seed)
        gradients.add(x_ND, targets(labels_N, K, 0.0), step=step, first=first, total=2 * N)
        return next(parameter.grad for parameter in model.parameters() if parameter.grad is not None)

    with torch.random.fork_rng(devices=[]):
        first = gradient(0, 0)
        assert torch.equal(first, gradient(0, 0))
        for other in (gradient(1, 0), gradient(0, 1), gradient(0, 0, first=N)):
            assert not torch.equal(first, other)
