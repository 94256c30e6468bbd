"""Frozen means frozen: parameters and buffers, for every policy."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from cnn_tl.core.errors import UsageError
from cnn_tl.networks import freeze_policies

POLICIES = [*sorted(freeze_policies.FREEZE), "last-2"]
MODELS = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit", "mobilenetv3_small_050", "test_byobnet"]


def changed(model: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(request.param, num_classes=3)


@pytest.mark.parametrize("policy", POLICIES)
def test_only_what_the_policy_names_moves(model: nn.Module, policy: str) -> None:
    trainable = freeze_policies.apply(model, policy)
    freeze_policies.train_mode(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    digest = freeze_policies.frozen_digest(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model(torch.randn(4, 3, *model.pretrained_cfg["input_size"][1:])).square().mean().backward()
    optimizer.step()
    moved = changed(model, before)
    buffers = {name for name, _ in model.named_buffers()}
    assert moved & trainable
    still = {name for name, module in model.named_modules() if not module.training}
    assert moved <= trainable | {name for name in buffers if name.rpartition(".")[0] not in still}
    assert policy != "head" or moved <= trainable
    assert freeze_policies.frozen_digest(model) == digest


def test_the_head_is_what_the_classifier_holds(model: nn.Module) -> None:
    freeze_policies.apply(model, "head")
    trainable, total = freeze_policies.count_parameters(model)
    assert trainable == sum(p.numel() for p in model.get_classifier().parameters()) > 0
    assert trainable < total


def test_distilled_models_have_two_heads() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    assert freeze_policies.apply(model, "head") == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


def test_the_digest_sees_a_moved_buffer() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    freeze_policies.apply(model, "head")
    before = freeze_policies.frozen_digest(model)
    next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).running_mean += 1e-3
    assert freeze_policies.frozen_digest(model) != before


@pytest.fixture
def resnet() -> nn.Module:
    return timm.create_model("test_resnet", num_classes=3)


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("policy", "top"),
    [
        ("head", {"fc"}),
        ("last-stage", {"layer4", "fc"}),
        ("last-1", {"layer4", "fc"}),
        ("last-2", {"layer3", "layer4", "fc"}),
        ("last-5", {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}),
    ],
)
def test_stages_are_counted_from_the_end(resnet: nn.Module, policy: str, top: set[str]) -> None:
    assert tops(freeze_policies.apply(resnet, policy)) == top
    assert {name for name, p in resnet.named_parameters() if p.requires_grad} == freeze_policies.trainable(
        resnet, policy
    )


def test_what_follows_the_last_stage_trains_with_it() -> None:
    mobilenet = timm.create_model("mobilenetv3_small_050", num_classes=3)
    assert tops(freeze_policies.trainable(mobilenet, "last-stage")) == {"blocks", "conv_head", "classifier"}
    vit = timm.create_model("test_vit", num_classes=3)
    assert tops(freeze_policies.trainable(vit, "last-stage")) == {"blocks", "norm", "head"}


def test_too_many_stages_are_refused_with_their_number(resnet: nn.Module) -> None:
    with pytest.raises(UsageError, match=r"has 5 stages .* the last 6 cannot train.*last-1 \.\. last-5") as error:
        freeze_policies.apply(resnet, "last-6")
    assert error.value.exit_code == 2
    assert all(p.requires_grad for p in resnet.parameters()), "a refusal changes nothing"


def test_a_family_without_known_stages_is_refused() -> None:
    with torch.device("meta"):
        model = timm.create_model("poolformer_s12", num_classes=3)
    with pytest.raises(UsageError, match="timm does not say where the stages of MetaFormer begin"):
        freeze_policies.trainable(model, "last-stage")
    assert freeze_policies.trainable(model, "head")


def test_only_the_trained_stage_is_in_training_mode(resnet: nn.Module) -> None:
    freeze_policies.apply(resnet, "last-stage")
    freeze_policies.train_mode(resnet)
    norms = {name: m.training for name, m in resnet.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, training in norms.items() if training} == {n for n in norms if n.startswith("layer4")}


def test_running_statistics_without_parameters_may_move_where_the_rest_trains() -> None:
    """A normalisation without weights inside a stage that trains is not in the receipt."""
    model = timm.create_model("test_resnet", num_classes=3)
    model.layer4[0].bn1 = nn.BatchNorm2d(model.layer4[0].bn1.num_features, affine=False)
    freeze_policies.apply(model, "last-stage")
    freeze_policies.train_mode(model)
    digest = freeze_policies.frozen_digest(model)
    model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert model.layer4[0].bn1.running_mean.abs().max() > 0
    assert freeze_policies.frozen_digest(model) == digest


def test_where_timm_knows_no_stages_it_is_said() -> None:
    with torch.device("meta"):
        model = timm.create_model("rdnet_tiny")
    with pytest.raises(UsageError, match="timm does not say where the stages of RDNet begin"):
        freeze_policies.trainable(model, "last-stage")
    [(name, parameters)] = freeze_policies.named_stages(model)
    assert (name, len(parameters)) == ("network", sum(1 for _ in model.parameters()))


def test_a_model_without_a_classifier_has_an_empty_head() -> None:
    with torch.device("meta"):
        model = timm.create_model("test_vit", num_classes=0)
    *before, head = freeze_policies.stages(model)
    assert head == []
    assert sum(len(names) for names in before) == sum(1 for _ in model.parameters())


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_the_receipt_of_a_stage_sees_its_own_buffers_and_parameters_move(name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    freeze_policies.apply(model, "head")
    before = freeze_policies.receipt(model)
    checked = 0
    for number, (_, names) in enumerate(freeze_policies.named_stages(model)[:-1]):
        holders = {parameter.rpartition(".")[0] for parameter in names}
        norms = [m for place, m in model.named_modules() if place in holders and isinstance(m, nn.BatchNorm2d)]
        for tensor in (norms[0].running_mean, norms[-1].running_var, norms[0].weight) if norms else ():
            with torch.no_grad():
                tensor += 1e-3
                moved = [
                    one.sha256 != other.sha256
                    for one, other in zip(before, freeze_policies.receipt(model), strict=True)
                ]
                assert moved == [n == number for n in range(len(before))]
                tensor -= 1e-3
            checked += 1
            before = freeze_policies.receipt(model)  # one rounding away from where it was
    assert checked >= 6
