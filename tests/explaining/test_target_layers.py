"""The layer that is looked at is found in every family, and a wrong name gets a hint."""

from __future__ import annotations

import pytest
import timm
import torch

from cnn_tl.core.errors import UsageError
from cnn_tl.explaining import target_layers
from cnn_tl.networks import classic  # noqa: F401 - registers LeNet-5

BLANK = torch.zeros(1, 3, 64, 64)

LAST_MAPS = {
    "resnet10t": "layer4", "mobilenetv3_small_050": "blocks", "vgg11": "features", "convnext_atto": "stages",
    "tf_efficientnet_lite0": "bn2",
}  # fmt: skip


def build(name: str, **arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False, num_classes=4, **arguments).eval()


@pytest.mark.parametrize("name", LAST_MAPS)
def test_the_last_map_before_the_global_pool(name: str) -> None:
    found = target_layers.find(build(name), BLANK)
    assert (found.name, found.channels_last) == (LAST_MAPS[name], False)
    assert (found.height, found.width) == (2, 2)


@pytest.mark.parametrize("name", ["lenet5", "lenet5_tanh"])
def test_linear_layers_behind_the_maps_are_no_tokens(name: str) -> None:
    """At 32 px C5 has one place, and most of LeNet-5's layers come after its last map."""
    found = target_layers.find(build(name), torch.zeros(1, 3, 32, 32))
    assert (found.name, found.channels, found.height, found.width) == ("s4", 16, 5, 5)


def test_a_family_with_channels_last() -> None:
    model = build("swin_tiny_patch4_window7_224", img_size=64, window_size=4)
    found = target_layers.find(model, BLANK)
    assert (found.channels, found.height, found.width, found.channels_last) == (768, 2, 2, True)
    assert target_layers.activations(model, found, BLANK).shape == (1, 768, 2, 2)


@pytest.mark.parametrize(
    ("name", "side"),
    [("vit_tiny_patch16_224", 64), ("resmlp_12_224", 224), ("gmlp_ti16_224", 224), ("levit_128s", 224)],
)
def test_tokens_are_refused_with_what_to_do(name: str, side: int) -> None:
    model = build(name, img_size=side)
    with pytest.raises(UsageError, match=r"tokens instead of maps.*occlusion"):
        target_layers.find(model, torch.zeros(1, 3, side, side))


@pytest.mark.parametrize(
    ("name", "said"), [("layer5", "did you mean layer4"), ("fc", "returns no map"), ("zzz", "some that do: ")]
)
def test_a_wrong_name_gets_a_hint(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        target_layers.find(build("resnet10t"), BLANK, name)


def test_nothing_is_computed_after_the_layer() -> None:
    model = build("resnet10t")
    model.layer3.register_forward_pre_hook(lambda *_: pytest.fail("too far"))
    found = target_layers.MapLayer("layer2", model.layer2, 128, 8, 8, channels_last=False)
    assert target_layers.activations(model, found, BLANK).shape == (1, 128, 8, 8)
