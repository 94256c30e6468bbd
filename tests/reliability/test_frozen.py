"""Frozen means frozen: whole runs must leave every frozen parameter and buffer as it was, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from whole_runs import newest_checkpoint

from cnn_tl.networks import backbone as backbone_module
from cnn_tl.networks import freeze_policies
from cnn_tl.networks.graph.trace import NoGraphError
from cnn_tl.networks.pretrained.weights import Source
from cnn_tl.recipe import Recipe
from cnn_tl.training import backbone_graph
from cnn_tl.training.run import train

BACKBONES = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "mobilenetv3_small_050", "test_byobnet"]
POLICIES = [*sorted(freeze_policies.FREEZE), "last-2"]
BY_TORCH = {"test_convnext", "test_vit", "mobilenetv3_small_050", "test_byobnet"}
"""Compute features and validate in torch, which could move what is frozen; the others do so in onnxruntime. Their
graphs would take longer to make than all else here."""
SIDES = {"test_vit": 160}
"""Any other size would resize the position embedding."""


@pytest.fixture
def data(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path / "data", {"ash": 7, "birch": 7})


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Write a backbone whose running statistics differ from the initial ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(request.param, num_classes=3)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.safetensors"
    save_file(model.state_dict(), path)
    with pytest.MonkeyPatch.context() as patch:
        if request.param in BY_TORCH:
            patch.setattr(backbone_graph, "trace", no_graph)
        yield request.param, path


def no_graph(network: object) -> bytes:
    raise NoGraphError("torch computes in these tests")


def frozen_names(name: str, policy: str) -> set[str]:
    """Return the frozen parameters, and the buffers of every module that holds frozen parameters only."""
    model = timm.create_model(name, num_classes=2)
    trainable = freeze_policies.trainable(model, policy)
    found = {n for n, _ in model.named_parameters()} - trainable
    for module_name, module in model.named_modules():
        own = {n for n, _ in module.named_parameters(prefix=module_name, recurse=False)}
        if own and not own & trainable:
            found |= {n for n, _ in module.named_buffers(prefix=module_name, recurse=False)}
    return found & model.state_dict().keys()


def before(recipe: Recipe, weights: Path) -> tuple[dict[str, Tensor], set[str]]:
    """Return the network as the run starts with it (two classes), and the names of its classifier's tensors."""
    source, size = Source("file", weights, ""), recipe.model.image_size
    model = backbone_module.build(recipe.model.name, source, num_classes=2, image_size=size, seed=recipe.seed).model
    return model.state_dict(), freeze_policies.head(model)


def recipe_of(name: str, weights: Path, data: Path, mode: str, **sections: dict[str, object]) -> Recipe:
    tree = {
        "mode": mode,
        "data": {"path": str(data)},
        "model": {"name": name, "weights": str(weights), "image_size": SIDES.get(name, 64)},
        "run": {"device": "cpu", "precision": "fp32"},
    }
    return Recipe.model_validate(tree | {key: tree.get(key, {}) | section for key, section in sections.items()})


def moved_between(begun: dict[str, Tensor], ended: dict[str, Tensor]) -> set[str]:
    """Return the names of the tensors that differ."""
    assert {name: tensor.shape for name, tensor in begun.items()} == {n: tensor.shape for n, tensor in ended.items()}
    return {name for name in begun if not torch.equal(begun[name], ended[name])}


@pytest.mark.parametrize("views", [2, "fresh"])
@pytest.mark.parametrize("policy", POLICIES)
def test_frozen_is_frozen(backbone: tuple[str, Path], data: Path, tmp_path: Path, policy: str, views: object) -> None:
    name, weights = backbone
    if policy == "all" and views == 2:
        pytest.skip("nothing is frozen, so nothing can be kept")
    recipe = recipe_of(
        name, weights, data, "finetune",
        model={"freeze": policy},
        features={} if policy == "all" else {"views": views},
        train={"epochs": 2, "batch_size": 4, "lr": 0.01},
    )  # fmt: skip
    result = train(recipe, tmp_path / "run")
    begun, classifier = before(recipe, weights)
    frozen, last = frozen_names(name, policy), newest_checkpoint(tmp_path / "run")
    assert last is not None
    assert moved_between(begun, load_file(tmp_path / "run" / "model" / "model.safetensors")) & frozen == set()
    moved = moved_between(begun, load_file(last / "model.safetensors"))  # what is kept may be the fitted head alone
    assert moved & frozen == set()
    assert classifier <= moved, "the steps were real"
    assert bool(moved - classifier) == (policy != "head"), "in the backbone too"
    assert bool(frozen) == (policy != "all") == ("frozen_sha256" in result.facts)
    assert result.facts.get("activations", {}).get("kept") == {2: True, "fresh": False}[views] or policy == "all"


@pytest.mark.parametrize("head", ["adamw", "lbfgs"])
def test_mode_freeze_fits_the_classifier_and_nothing_else(
    backbone: tuple[str, Path], data: Path, tmp_path: Path, head: str
) -> None:
    name, weights = backbone
    recipe = recipe_of(name, weights, data, "freeze", head={"kind": head}, features={"views": 2})
    begun, classifier = before(recipe, weights)
    for run in ("computed", "from the cache"):
        result = train(recipe, tmp_path / run)
        assert (result.facts["features"]["computed"] == 0) == (run != "computed")
        ended = load_file(tmp_path / run / "model" / "model.safetensors")
        assert moved_between(begun, ended) == classifier
        assert len(result.facts["frozen_sha256"]) == 64


def _by_the_last_bit(tensor: Tensor) -> None:
    tensor.data.copy_(torch.nextafter(tensor.data, torch.tensor(torch.inf)))


def _move_nothing(module: nn.BatchNorm2d) -> None:
    pass


def _move_a_buffer(module: nn.BatchNorm2d) -> None:
    assert module.running_mean is not None
    _by_the_last_bit(module.running_mean)


def _move_a_parameter(module: nn.BatchNorm2d) -> None:
    _by_the_last_bit(module.weight)


@pytest.mark.parametrize("move", [_move_nothing, _move_a_buffer, _move_a_parameter])
@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("freeze", []),
        ("finetune", ["model.freeze=head", "features.views=fresh", "train.epochs=1"]),
        ("finetune", ["model.freeze=last-stage", "features.views=1", "train.epochs=1"]),
    ],
)
def test_the_receipt_is_refused_when_a_frozen_tensor_moves(
    mode: str,
    settings: list[str],
    move: Callable[[nn.BatchNorm2d], None],
    data: Path,
    tmp_path: Path,
    tiny_weights: Path,
    cli: Callable[..., Any],
) -> None:
    """Sabotage: each forward pass of a frozen normalization layer changes one of its tensors."""

    def behind_the_back(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(module, nn.BatchNorm2d) and (mode == "freeze" or not module.weight.requires_grad):
            move(module)

    words = ["train", data, "--mode", mode, "--model", "test_resnet", "--weights", tiny_weights]
    words += ["--output", tmp_path / "run", "--device", "cpu"]
    words += [word for setting in ["model.image_size=64", *settings] for word in ("--set", setting)]
    hook = register_module_forward_hook(behind_the_back)
    try:
        outcome = cli(*words)
    finally:
        hook.remove()
    moved = move is not _move_nothing
    assert (outcome.code == 1) == ("a frozen tensor has changed" in outcome.err) == moved, outcome.err
    assert (tmp_path / "run" / "model").exists() == (tmp_path / "run" / "result.json").exists() == (not moved)
