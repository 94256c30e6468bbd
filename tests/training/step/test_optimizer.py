"""Which parameters learn how fast, and which decay."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from cnn_tl.recipe.defaults import MODE_TRAIN
from cnn_tl.recipe.resolved import LoopTrain
from cnn_tl.training.step.optimizer import make_optimizer, parameter_groups

MODELS = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"]


def model_of(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return timm.create_model(name, num_classes=3)


def train(**chosen: object) -> LoopTrain:
    """Return the settings of mode finetune with some of them chosen."""
    return MODE_TRAIN["finetune"].model_copy(update=chosen)


def factors_of(model: nn.Module, settings: LoopTrain) -> dict[str, float]:
    """Return parameter -> its learning rate as a multiple of the schedule's."""
    groups = parameter_groups(model, settings, {name for name, _ in model.named_parameters()})
    factor_of = {id(parameter): group["factor"] for group in groups for parameter in group["params"]}
    return {name: factor_of[id(parameter)] for name, parameter in model.named_parameters()}


def decays_of(model: nn.Module, settings: LoopTrain) -> set[str]:
    groups = parameter_groups(model, settings, {name for name, _ in model.named_parameters()})
    decaying = {id(parameter) for group in groups if group["weight_decay"] for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in decaying}


@pytest.mark.parametrize("name", MODELS)
def test_layers_learn_at_the_pace_that_timm_gives_them(name: str) -> None:
    model = model_of(name)
    ours = factors_of(model, train(layer_decay=0.7, head_lr_factor=1))
    scale_of = {id(p): g["lr_scale"] for g in param_groups_layer_decay(model, layer_decay=0.7) for p in g["params"]}
    assert ours == pytest.approx({name: scale_of[id(parameter)] for name, parameter in model.named_parameters()})
    assert len(set(ours.values())) > 2


def test_layer_decay_by_hand() -> None:
    """The stem learns slowest; a block of a later stage is nearer to the head, whose own factor is another setting."""
    factors = factors_of(model_of("test_resnet"), train(layer_decay=0.5, head_lr_factor=8))
    assert factors["fc.weight"] == factors["fc.bias"] == 8
    stages = [factors[f"layer{stage}.0.conv1.weight"] for stage in (1, 2, 3, 4)]
    assert stages == sorted(stages)
    assert factors["conv1.0.weight"] < stages[0] < stages[3] < 1
    assert {stages[n] / stages[n + 1] for n in range(3)} == {0.5}


@pytest.mark.parametrize("name", MODELS)
def test_weights_decay_but_no_bias_no_norm_and_nothing_that_the_model_exempts(name: str) -> None:
    model = model_of(name)
    norms = {
        f"{place}.{own}"
        for place, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm)
        for own, _ in module.named_parameters(recurse=False)
    }
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()
    kernels = {f"{place}.weight" for place, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    decaying = decays_of(model, train(weight_decay=0.1))
    assert kernels <= decaying
    assert not decaying & (norms | exempt | {n for n, _ in model.named_parameters() if n.endswith("bias")})
    assert not decays_of(model, train(weight_decay=0))
    assert name != "test_vit" or "pos_embed" in exempt


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (train(optimizer="sgd"), {"momentum": 0.9, "nesterov": True}),
        (train(optimizer="sgd", momentum=0.5), {"momentum": 0.5}),
        (train(optimizer="rmsprop", momentum=0.7), {"momentum": 0.7}),
        (train(optimizer="adamw"), {"betas": (0.9, 0.999)}),
        (train(), {"betas": (0.9, 0.999)}),
    ],
    ids=str,
)
def test_the_optimiser_has_the_recipes_numbers(settings: LoopTrain, expected: dict[str, object]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    model.get_classifier = lambda: model[1]  # type: ignore[assignment]
    made = make_optimizer(model, settings, torch.device("cpu"), {"1.weight", "1.bias"}, lr=0.25)
    assert type(made).__name__.lower().startswith(settings.optimizer)
    for group in made.param_groups:
        assert {key: group[key] for key in expected} == expected
        assert group["lr"] == 0.25
