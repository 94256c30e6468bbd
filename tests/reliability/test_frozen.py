"""R13: frozen is frozen. Whole runs, and the weights that come out are compared with those that went in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cnn_tl.networks import freeze
from cnn_tl.recipe import Recipe
from cnn_tl.training.train import train

BACKBONES = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "mobilenetv3_small_050", "test_byobnet"]
POLICIES = [*sorted(freeze.FREEZE), "last-2"]
SIDES = {"test_vit": 160}
"""Another size than its own would resize its table of positions."""


@pytest.fixture
def data(tmp_path: Path, make_pictures: Callable[..., Path]) -> Path:
    return make_pictures(tmp_path / "data", {"ash": 7, "birch": 7})


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Write a backbone whose running statistics are not those that a fresh one begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(request.param, num_classes=3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.safetensors"
    save_file(model.state_dict(), path)
    return request.param, path


def frozen_names(name: str, policy: str) -> set[str]:
    """Return the frozen parameters, and the buffers of every module that holds frozen parameters only."""
    model = timm.create_model(name, num_classes=2)
    trainable = freeze.trainable(model, policy)
    found = {n for n, _ in model.named_parameters()} - trainable
    for module_name, module in model.named_modules():
        own = {n for n, _ in module.named_parameters(prefix=module_name, recurse=False)}
        if own and not own & trainable:
            found |= {n for n, _ in module.named_buffers(prefix=module_name, recurse=False)}
    return found & model.state_dict().keys()


@pytest.mark.parametrize("views", [2, "fresh"])
@pytest.mark.parametrize("policy", POLICIES)
def test_frozen_is_frozen(backbone: tuple[str, Path], data: Path, tmp_path: Path, policy: str, views: object) -> None:
    name, weights = backbone
    if policy == "all" and views == 2:
        pytest.skip("nothing is frozen, so nothing can be kept")
    tree = {
        "mode": "finetune",
        "data": {"path": str(data)},
        "model": {"name": name, "weights": str(weights), "image_size": SIDES.get(name, 64), "freeze": policy},
        "features": {} if policy == "all" else {"views": views},
        "train": {"epochs": 3, "batch_size": 4, "lr": 0.01},
        "run": {"device": "cpu"},
    }
    result = train(Recipe.model_validate(tree), tmp_path / "run")
    before, after = load_file(weights), load_file(tmp_path / "run" / "model" / "model.safetensors")
    frozen = frozen_names(name, policy)
    moved = {n for n in before if before[n].shape != after[n].shape or not torch.equal(before[n], after[n])}
    assert moved & frozen == set()
    assert moved, "the steps were real"
    assert bool(frozen) == (policy != "all") == ("frozen_sha256" in result.facts)
    assert result.facts.get("activations", {}).get("kept") == {2: True, "fresh": False}[views] or policy == "all"
