"""A split network equals the whole one: the same logits and gradients, from kept activations."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_tl.networks import freeze_policies
from cnn_tl.networks.split_point import SplitModel, split

BOUNDARIES = {
    ("test_resnet", "last-stage"): "layer4",
    ("test_resnet", "last-2"): "layer3",
    ("test_efficientnet", "last-stage"): "blocks.4",
    ("test_efficientnet", "last-2"): "blocks.3",
    ("test_convnext", "last-stage"): "stages.3",
    ("test_vit", "last-stage"): "blocks.5",
    ("test_vit", "last-2"): "blocks.4",
    ("test_byobnet", "last-stage"): "stages.3",
    ("mobilenetv3_small_050", "last-stage"): "blocks.5",
    ("mobilenetv2_035", "last-stage"): "blocks.6",
    ("efficientnet_lite0", "last-stage"): "blocks.6",
    ("regnetx_002", "last-stage"): "s4",
    ("densenet121", "last-stage"): "features.denseblock4",
    ("vgg11_bn", "last-2"): "features.25",
}
"""(model, policy) -> where the rest begins. The first of a family is cut by every policy below."""

SMALL = sorted({model for model, _ in BOUNDARIES if model.startswith(("test_", "mobilenetv3"))})
OTHER_SIZE = {"densenet121": 64, "vgg11_bn": 64, "regnetx_002": 64, "efficientnet_lite0": 64, "mobilenetv2_035": 64}


def make(name: str, policy: str, **kwargs: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=3, **kwargs)
    freeze_policies.apply(model, policy)
    return model.to(memory_format=torch.channels_last)


def noise(model: nn.Module, count: int = 3, seed: int = 0) -> Tensor:
    name = model.pretrained_cfg["architecture"]
    side = OTHER_SIZE.get(name, model.pretrained_cfg["input_size"][-1])
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def cut_of(model: nn.Module) -> SplitModel:
    found = split(model, noise(model))
    assert isinstance(found, SplitModel), found
    return found


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    freeze_policies.train_mode(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        F.cross_entropy(model(x), torch.arange(len(x)) % 3).backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    return [p.grad for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize(("name", "policy"), sorted(BOUNDARIES), ids=str)
def test_the_rest_of_the_prefix_is_the_whole(name: str, policy: str) -> None:
    model = make(name, policy, **({"mlp_ratio": 0.05} if name.startswith("vgg") else {}))
    found = cut_of(model)
    assert found.split_point == BOUNDARIES[name, policy]
    x_NCHW = noise(model, count=5, seed=1)  # neither the trace's number of images nor the proof's
    model.eval()
    with torch.no_grad():
        whole = model(x_NCHW)
        kept = found.prefix(x_NCHW)
        with found.rest():
            assert torch.equal(model(kept), whole)
        assert torch.equal(model(x_NCHW), whole), "afterwards it is the whole again"
    assert (kept.shape[1:], kept.dtype) == (found.shape, found.dtype)
    assert found.channels_last == (kept.ndim == 4)


@pytest.mark.parametrize("policy", ["head", "last-stage", "last-2"])
@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_the_rest_are_those_of_the_whole(name: str, policy: str) -> None:
    model = make(name, policy)
    found = cut_of(model)
    x_NCHW = noise(model, count=5, seed=1)
    whole = gradients(model, x_NCHW)
    kept = found.prefix(x_NCHW)
    with found.rest():
        of_the_rest = gradients(model, kept)
    assert all(torch.equal(one, other) for one, other in zip(of_the_rest, whole, strict=True))


def test_cutting_changes_nothing_in_the_model() -> None:
    model = make("test_resnet", "last-2")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    found = cut_of(model)
    with pytest.raises(KeyError), found.rest():
        raise KeyError("an error inside the body")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_the_rest_computes_nothing_of_the_frozen_part() -> None:
    model = make("test_resnet", "last-stage")
    found = cut_of(model)
    kept = found.prefix(noise(model))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.fill_(float("nan"))
    with found.rest():
        assert model.eval()(kept).isfinite().all()


def test_the_prefix_stops_at_the_boundary() -> None:
    model = make("test_resnet", "last-stage")
    found = cut_of(model)
    called: list[str] = []
    model.layer3.register_forward_hook(lambda *_: called.append("layer3"))
    model.layer4.register_forward_hook(lambda *_: called.append("layer4"))
    kept = found.prefix(noise(model))
    assert called == ["layer3"]
    assert not kept.requires_grad


def test_the_number_format_is_that_of_the_call() -> None:
    model = make("test_resnet", "last-stage")
    with torch.autocast("cpu", torch.bfloat16):
        found = cut_of(model)
        x_NCHW = noise(model, count=5)
        whole = gradients(model, x_NCHW)
        kept = found.prefix(x_NCHW)
        assert kept.dtype == found.dtype == torch.bfloat16
        with found.rest():
            of_the_rest = gradients(model, kept)
    assert all(torch.equal(one, other) for one, other in zip(of_the_rest, whole, strict=True))


class Odd(nn.Module):
    """A network as a family might write it that is not in timm."""

    def __init__(self, forward: Callable[[Odd, Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
            self.act, self.fc = nn.ReLU(), nn.Linear(4, 3)
            self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5), requires_grad=False)
        self.way = forward
        self.first.requires_grad_(False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.fc(self.way(self, x_NCHW).mean((2, 3)))


def cut_odd(forward: Callable[[Odd, Tensor], Tensor]) -> SplitModel | str:
    return split(Odd(forward), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)))


def test_a_module_called_on_both_sides_pretends_on_one_only() -> None:
    found = cut_odd(lambda m, x: m.act(m.second(m.act(m.first(x)))))
    assert isinstance(found, SplitModel)
    assert found.split_point == "second"


def test_plain_tensor_code_before_the_boundary_is_no_hindrance() -> None:
    found = cut_odd(lambda m, x: m.second(m.act(m.first(x) * m.scale).add_(1)))
    assert isinstance(found, SplitModel)
    assert found.split_point == "second"


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.second(y := m.first(x)) + y,  # a second path around the split point
        lambda m, x: m.second(m.first(x)) + x.mean(),  # from the image itself
        lambda m, x: m.second(F.dropout(m.first(x), 0.5, m.training)),  # other activations each time
        lambda m, x: m.second(m.first(x)) * F.conv2d(m.first(x), m.second.weight, padding=1),  # unseen by hooks
    ],
)
def test_what_cannot_be_cut_is_not(forward: Callable[[Odd, Tensor], Tensor]) -> None:
    found = cut_odd(forward)
    # the classifier trains too, but it begins behind a stage that trains
    assert found == "its frozen part does not hand over to the rest in one tensor that is the same each time"


def test_trainable_numbers_used_before_the_boundary_are_noticed() -> None:
    """The logits would agree; the gradient of the scale would be lost."""
    model = Odd(lambda m, x: m.second(m.first(x) * m.scale))
    model.scale.requires_grad_(True)
    assert isinstance(split(model, torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))), str)


def test_why_there_is_nothing_to_cut() -> None:
    model = make("test_resnet", "all")
    assert split(model, noise(model)) == "no part of it is frozen"
    model.layer3.requires_grad_(False)
    assert split(model, noise(model)) == "what trains begins at the image itself"


def test_two_heads_on_two_tokens_are_not_cut_at_the_head() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3, depth=2)
    x_NCHW = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    freeze_policies.apply(model, "head")
    assert isinstance(split(model, x_NCHW), str)
    freeze_policies.apply(model, "last-stage")
    found = split(model, x_NCHW)
    assert isinstance(found, SplitModel)
    assert found.split_point == "blocks.1"
