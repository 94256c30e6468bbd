"""The state that a checkpoint gets is a copy in the host's memory, whatever the GPU does next."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from cnn_tl.training.checkpoints.loop_checkpoint import copies_of
from cnn_tl.training.step import optimizer as optim

pytestmark = pytest.mark.gpu


def assert_same(copies: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert copies.keys() == expected.keys()
    for name, copy in copies.items():
        assert copy.device.type == "cpu"
        assert copy.is_contiguous()
        assert torch.equal(copy, expected[name]), name


def test_a_copy_is_of_the_moment(device: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), fused=device == "cuda")

    def step(seed: int) -> None:
        torch.manual_seed(seed)
        model(torch.randn(4, 3, 32, 32).to(device)).square().mean().backward()
        optimizer.step()

    step(0)
    expected = [
        {name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}
        for tensors in (model.state_dict(), optim.state_tensors(optimizer))
    ]
    copies = [copies_of(model.state_dict()), copies_of(optim.state_tensors(optimizer))]
    step(1)
    for found, wanted in zip(copies, expected, strict=True):
        assert_same(found, wanted)
