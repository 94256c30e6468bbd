"""The layer table against the network itself: real images, hooks of torch, and torch's own counter."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cnn_tl.anatomy.inspected_network import Subject, from_timm
from cnn_tl.anatomy.table import ITSELF, Table, Training, inspect
from cnn_tl.core.errors import UsageError

ALL = Training("finetune", "all")
QUICK = {
    "test_resnet": 64, "test_efficientnet": 64, "test_convnext": 64, "test_vit": None, "test_byobnet": 64,
    "test_nfnet": 64, "test_mambaout": 64, "tf_efficientnet_lite0": 67, "mobilenetv3_small_050": 64, "ghostnet_050": 64,
    "regnety_002": 64, "tf_mixnet_s": 65, "densenet121": 64, "test_maxvit": None, "resmlp_12_224": None,
}  # fmt: skip
"""Small models of many families, with the side of their images; None: their own."""

LONG = [
    "resnet50", "resnet18", "resnext50_32x4d", "seresnet50", "resnetv2_50", "vgg16", "vgg11_bn", "densenet121",
    "densenet201", "inception_v3", "inception_v4", "inception_resnet_v2", "xception41", "legacy_xception",
    "mobilenetv2_100", "mobilenetv3_large_100", "efficientnet_b0", "tf_efficientnet_b3", "tf_efficientnetv2_s",
    "mixnet_l", "regnetx_032", "regnety_032", "convnext_tiny", "convnextv2_tiny", "vit_small_patch16_224",
    "vit_base_patch32_224", "deit_small_distilled_patch16_224", "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "mixer_b16_224", "gmlp_s16_224", "repvgg_a2",
    "ghostnet_100", "dm_nfnet_f0", "maxvit_tiny_tf_224", "coatnet_0_rw_224", "hrnet_w18", "dla34", "dpn68",
    "res2net50_26w_4s", "tresnet_m", "nasnetalarge", "cait_xxs24_224", "xcit_tiny_12_p16_224", "poolformer_s12",
    "edgenext_small", "mobilevit_s", "levit_128", "efficientformer_l1", "tiny_vit_5m_224", "halonet26t",
    "cspdarknet53", "selecsls42b", "tf_efficientnet_cc_b0_4e", "resnest26d", "skresnet18", "focalnet_tiny_srf",
    "convmixer_768_32",
]  # fmt: skip


@dataclass
class Measured:
    """What hooks and torch's counter say about a network that runs on numbers, by the names of its modules."""

    outputs: dict[str, tuple[int, ...]]
    multiply_adds: dict[str, int]
    parameters: int


def measure(model: nn.Module, size: tuple[int, int, int]) -> Measured:
    outputs: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> object:
        def hook(_: nn.Module, __: object, out: object) -> None:
            if isinstance(out, torch.Tensor):
                outputs.setdefault(name, tuple(out.shape[1:]))

        return hook

    for name, module in model.named_modules():
        module.register_forward_hook(note(name))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.eval().requires_grad_(False)(torch.rand(1, *size))  # the counter hooks gradients otherwise
    top = type(model).__name__
    counts = {
        key.removeprefix(top).lstrip("."): sum(ops.values()) // 2 for key, ops in counter.get_flop_counts().items()
    }
    return Measured(outputs, counts, sum(p.numel() for p in model.parameters()))


def compare(table: Table, measured: Measured) -> int:
    """Hold each row against what was measured; return how many shapes there were to compare."""
    assert table.parameters == measured.parameters
    assert table.multiply_adds == measured.multiply_adds["Global"]
    shapes = 0
    for row in table.rows:
        if row.calls and ITSELF not in row.name and row.name in measured.outputs:
            assert row.output == measured.outputs[row.name], row.name
            shapes += 1
        if row.window is not None:
            sides = row.window.rows.output, row.window.columns.output
            assert row.output is not None
            assert sides in (row.output[1:], row.output[:2]), row
    return shapes


def check(name: str, side: int | None) -> Table:
    subject = from_timm(name)
    if side:
        subject = Subject(name, subject.model, (3, side, side))
    whole = inspect(subject, ALL)
    with torch.random.fork_rng(devices=[]):
        real = timm.create_model(name)
    measured = measure(real, subject.input)
    assert compare(whole, measured) > 3
    for depth in (1, 2, 3):
        folded = inspect(subject, ALL, depth)
        compare(folded, measured)
        assert folded.activation_bytes == whole.activation_bytes
        for row in folded.rows:
            if row.calls and ITSELF not in row.name and row.name in measured.multiply_adds:
                assert row.multiply_adds == measured.multiply_adds[row.name], row.name
    return whole


@pytest.mark.parametrize("name", QUICK)
def test_the_table_is_the_network(name: str) -> None:
    check(name, QUICK[name])


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LONG)
def test_the_table_is_the_network_for_many_families(name: str) -> None:
    check(name, None)


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0", "test_nfnet", "tf_mixnet_s"])
def test_windows_are_those_of_the_convolutions(name: str) -> None:
    subject = from_timm(name)
    rows = {row.name: row for row in inspect(subject, ALL).rows}
    seen = 0
    for module_name, module in subject.model.named_modules():
        if isinstance(module, nn.Conv2d):
            window = rows[module_name].window
            assert window is not None
            assert (window.rows.kernel, window.columns.kernel) == module.kernel_size
            assert (window.rows.stride, window.columns.stride) == module.stride
            assert window.groups == module.groups
            if not rows[module_name].same:
                assert (window.rows.before, window.columns.after) == module.padding
            seen += 1
    assert seen > 5


def test_padding_as_tensorflow_has_it_is_seen() -> None:
    stem = next(row for row in inspect(from_timm("tf_efficientnet_lite0"), ALL).rows if row.name == "conv_stem")
    assert stem.window is not None
    assert (stem.same, stem.window.rows.before, stem.window.rows.after) == (True, 0, 1)


def fields(name: str, depth: int = 0) -> dict[str, tuple[float, float] | None]:
    return {row.name: row.receptive_field for row in inspect(from_timm(name), ALL, depth).rows}


def test_receptive_fields_are_the_published_ones() -> None:
    """Araujo et al. 2019, table 1: VGG-16 212, Inception v3 1311; timm's resnet50 strides in 3x3 layers: not 483."""
    assert fields("vgg16")["features.30"] == (212, 212)
    assert fields("inception_v3", 1)["Mixed_7c"] == (1311, 1311)
    assert fields("resnet50", 1)["layer4"] == (427, 427)


def test_no_window_after_attention_mixing_and_global_pooling() -> None:
    vit = fields("test_vit")
    assert vit["patch_embed.proj"] == vit["blocks.0.attn.qkv"] == (16, 16)
    assert vit["blocks.0.attn.proj"] is None
    mixer = fields("resmlp_12_224")
    assert mixer["stem.proj"] == (16, 16)
    assert mixer["blocks.0.linear_tokens"] is None
    assert fields("test_resnet", 1)["fc"] is None


def test_a_gate_is_marked_and_keeps_the_field_of_its_map() -> None:
    rows = {row.name: row for row in inspect(from_timm("mobilenetv3_small_050"), ALL).rows}
    assert rows["blocks.0.0.conv_pw"].gated
    assert rows["blocks.0.0.conv_pw"].receptive_field == rows["blocks.0.0.conv_dw"].receptive_field == (7, 7)
    assert not rows["blocks.0.0.conv_dw"].gated


def test_a_field_is_what_a_gradient_reaches() -> None:
    """Pixels that one unit of a small network depends on, found by a gradient through positive weights."""
    name = "densenet121"
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(name).eval()
    block = model.features.denseblock1.denselayer2
    found: list[torch.Tensor] = []
    block.register_forward_hook(lambda _, __, out: found.append(out))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.abs_()
    image = torch.rand(1, 3, 160, 160, requires_grad=True)
    model(image)
    map_NCHW = found[0]
    map_NCHW[0, :, 20, 20].sum().backward()
    assert image.grad is not None
    reached = image.grad[0].abs().sum(0).sum(0).nonzero().flatten()
    side = reached[-1] - reached[0] + 1
    assert fields(name)["features.denseblock1.denselayer2.conv2"] == (side, side)


def test_a_recurrent_layer_is_counted_and_not_unrolled() -> None:
    """Each of the 32 x 32 places meets every weight once in each of its four LSTMs."""
    subject = from_timm("sequencer2d_s")
    rows = {row.name: row for row in inspect(subject, ALL).rows}
    row = rows["stages.0.blocks.0.rnn_tokens.rnn_v"]
    layer = subject.model.get_submodule(row.name)
    weights = row.parameters - 2 * 2 * 4 * layer.hidden_size  # two biases for each of four gates, both ways
    assert row.multiply_adds == 32 * 32 * weights
    assert row.receptive_field is None


def test_activations_in_place_take_no_memory() -> None:
    rows = {row.name: row for row in inspect(from_timm("resnet18"), ALL).rows}
    assert rows["conv1"].activation_bytes == 64 * 112 * 112 * 4
    assert rows["act1"].activation_bytes == 0
    assert rows["fc"].activation_bytes == 4000


def test_what_trains_is_what_training_would_train() -> None:
    frozen = inspect(from_timm("resnet18"), Training("freeze", "head"), 1)
    assert {row.name for row in frozen.rows if row.state == "trains"} == {"fc"}
    assert frozen.trainable == 513_000
    last = inspect(from_timm("resnet18"), Training("finetune", "last-stage"), 1)
    assert {row.name for row in last.rows if row.state == "trains"} == {"layer4", "fc"}
    phases = inspect(from_timm("resnet18"), Training("lp-ft", "all", "head"), 1)
    assert {row.name: row.state for row in phases.rows if row.parameters} == {
        **dict.fromkeys(("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), "later"), "fc": "trains",
    }  # fmt: skip
    norms = inspect(from_timm("resnet18"), Training("finetune", "norm"), 1)
    assert next(row for row in norms.rows if row.name == "layer1").state == "partly"
    assert [row.stage for row in frozen.rows if row.parameters] == [
        "stem", "stem", "stage 1", "stage 2", "stage 3", "stage 4", "head",
    ]  # fmt: skip


def test_the_largest_models_take_no_memory_and_no_weights() -> None:
    table = inspect(from_timm("eva02_enormous_patch14_clip_224"), ALL, 1)
    assert table.parameters > 4e9


@pytest.mark.parametrize(
    ("name", "side", "said"),
    [
        ("resnt18", None, "there is no model 'resnt18'; did you mean"),
        ("resnet18.nobody", None, "no weights called 'nobody'"),
        ("vit_tiny_patch16_224", 8, "8 x 8"),
        ("inception_v3", 32, "32 x 32"),
    ],
)
def test_refusals(name: str, side: int | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        from_timm(name, side)


def test_a_model_without_a_classifier() -> None:
    table = inspect(from_timm("samvit_base_patch16"), Training("freeze", "head"), 1)
    assert table.trainable == 0
    assert [row.stage for row in table.rows][-1] == "stage 13"


def test_a_model_of_fixed_size_is_built_for_another() -> None:
    subject = from_timm("vit_tiny_patch16_224", 96)
    rows = {row.name: row for row in inspect(subject, ALL).rows}
    assert rows["patch_embed.proj"].output == (192, 6, 6)
