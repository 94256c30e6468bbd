"""Frozen means frozen: parameters and buffers, for every policy (R13)."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from cnn_tl.networks import freeze

MODELS = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "mobilenetv3_small_050", "test_byobnet"]


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(request.param, num_classes=3)


@pytest.mark.parametrize("policy", sorted(freeze.FREEZE))
def test_only_what_the_policy_names_moves(model: nn.Module, policy: str) -> None:
    trainable = freeze.apply(model, policy)
    freeze.train_mode(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    digest = freeze.frozen_digest(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model(torch.randn(4, 3, *model.pretrained_cfg["input_size"][1:])).square().mean().backward()
    optimizer.step()
    moved = changed(model, before)
    buffers = {name for name, _ in model.named_buffers()}
    assert moved & trainable
    assert moved <= trainable | (buffers if policy == "all" else set())
    assert freeze.frozen_digest(model) == digest


def test_the_head_is_what_the_classifier_holds(model: nn.Module) -> None:
    freeze.apply(model, "head")
    trainable, total = freeze.count_parameters(model)
    assert trainable == sum(p.numel() for p in model.get_classifier().parameters()) > 0
    assert trainable < total


def test_distilled_models_have_two_heads() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    assert freeze.apply(model, "head") == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_the_digest_sees_a_moved_buffer() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    freeze.apply(model, "head")
    before = freeze.frozen_digest(model)
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean += 1e-3
    assert freeze.frozen_digest(model) != before
