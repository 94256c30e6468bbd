"""`--input 32x32x3 --conv "10@5x5 s1 p2"`: the exercises, what is written wrong, and torch's layers beside ours."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from cnn_tl.anatomy.layer_notation import Kind, Step, parse_input, parse_layer, walk
from cnn_tl.core.errors import UsageError


def steps(shape: str, *layers: tuple[Kind, str]) -> list[Step]:
    return walk(parse_input(shape), [parse_layer(kind, text) for kind, text in layers])


@pytest.mark.parametrize(
    ("shape", "layers", "outputs", "parameters"),
    [
        ("32x32x3", [("conv", "10@5x5 s1 p2")], [(32, 32, 10)], 760),
        ("16x16x3", [("conv", "10@5x5 s1 p2"), ("pool", "2x2 s2")], [(16, 16, 10), (8, 8, 10)], 760),
        ("9x9", [("conv", "3x3 s2")], [(4, 4, 1)], 10),
        ("9x9", [("conv", "3x3 s1 p1")], [(9, 9, 1)], 10),
        ("10x10", [("conv", "3x3")], [(8, 8, 1)], 10),
        ("9x9", [("conv", "3x3 p1 reflect")], [(9, 9, 1)], 10),
        ("9x9", [("conv", "3x3 p1 replicate")], [(9, 9, 1)], 10),
        ("224x224x3", [("conv", "32@3x3 s2 same nobias")], [(112, 112, 32)], 864),
        ("8x8x4", [("conv", "8@3 d2 g4")], [(4, 4, 8)], 80),
        ("8x6x4", [("pool", "global avg"), ("fc", "3 nobias")], [(1, 1, 4), (3,)], 12),
    ],
)
def test_exercises(shape: str, layers: list[tuple[Kind, str]], outputs: list[tuple[int, ...]], parameters: int) -> None:
    found = steps(shape, *layers)
    assert [step.output for step in found] == outputs
    assert sum(step.parameters for step in found) == parameters


def test_a_fully_connected_layer_sees_every_number() -> None:
    [step] = steps("128x128x3", ("fc", "1"))
    assert (step.inputs, step.parameters) == (49_152, 49_153)
    assert step.arithmetic == "128*128*3 = 49,152 inputs"
    assert step.receptive_field is None


def test_how_parameters_are_counted_is_written_out() -> None:
    [step] = steps("32x32x3", ("conv", "10@5x5 p2"))
    assert (step.counting, step.multiply_adds) == ("(5*5*3 + 1)*10", 32 * 32 * 10 * 75)


def test_a_stride_that_does_not_divide_is_said() -> None:
    [step] = steps("10x9", ("conv", "3x3 s2"))
    assert step.output == (4, 4, 1)
    assert step.remark == "the stride does not divide: rounded down, 1 row at the end not reached"
    assert steps("9x9", ("conv", "3x3 s2"))[0].remark == ""


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("conv", "", "it is empty"),
        ("conv", "10@5y5", "'5y5' is not a size"),
        ("conv", "0@5x5", "'0' is not a number above 0"),
        ("conv", "10@0x5", "'0x5' is not a size"),
        ("conv", "10@5x5 q2", "'q2' does not belong there"),
        ("conv", "10@5x5 s0", "'0' is not a size"),
        ("conv", "10@5x5 s1 s2", "s2 is one too many"),
        ("conv", "10@5x5 p1 same", "same is one too many"),
        ("conv", "10@5x5 max", "'max' does not belong there"),
        ("conv", "10@5x5 s-1", "'-1' is not a size"),
        ("pool", "10@2x2", "pooling has no filters"),
        ("pool", "2x2 reflect", "'reflect' does not belong there"),
        ("pool", "global s2", "s2 is one too many"),
        ("fc", "ten", "'ten' is not a number above 0"),
        ("fc", "10 s2", "'s2' does not belong there"),
        ("fc", "9" * 5000, "is not a number above 0"),
        ("conv", "\x1b[31m", "\\\\x1b[31m' is not a size"),
    ],
)
def test_what_is_written_wrong_is_one_line(kind: Kind, text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_layer(kind, text)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("text", ["", "32", "32x", "0x9", "9x9x0", "a x b", "32x32x3x1", "-3x3", "1e3x3", "9" * 5000])
def test_inputs_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="height x width x channels"):
        parse_input(text)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([("conv", "11x11")], "the window covers 11, more than 8"),
        ([("conv", "5x5 d3")], "the window covers 13, more than 8"),
        ([("conv", "17x17 p8 reflect")], "reflection has no 8 pixels"),
        ([("pool", "2x2 p2")], "padding 2 is more than half"),
        ([("conv", "4@3x3 g2")], "2 groups do not divide 3 channels"),
        ([("fc", "10"), ("conv", "3x3")], "no map to slide over"),
    ],
)
def test_layers_that_cannot_follow(layers: list[tuple[Kind, str]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        steps("8x8x3", *layers)


def test_random_chains_are_those_of_torch() -> None:
    chance = random.Random(4)
    tried = 0
    for _ in range(200):
        channels, size = chance.choice([1, 2, 4]), chance.randint(3, 20)
        texts: list[tuple[Kind, str]] = []
        modules: list[nn.Module] = []
        now = channels
        for _ in range(chance.randint(1, 4)):
            kernel, stride, padding = chance.randint(1, 4), chance.randint(1, 3), chance.randint(0, 2)
            if chance.random() < 0.6:
                filters, mode = 2 * chance.randint(1, 4), chance.choice(["zeros", "reflect", "replicate"])
                texts.append(("conv", f"{filters}@{kernel} s{stride} p{padding} {mode}"))
                modules.append(nn.Conv2d(now, filters, kernel, stride, padding, padding_mode=mode))
                now = filters
            else:
                texts.append(("pool", f"{kernel} s{stride} p{padding} ceil avg"))
                modules.append(nn.AvgPool2d(kernel, stride, padding, ceil_mode=True))
        try:
            found = steps(f"{size}x{size + 1}x{channels}", *texts)
        except UsageError:
            continue
        with torch.no_grad():
            x_NCHW = torch.zeros(1, channels, size, size + 1)
            for module, step in zip(modules, found, strict=True):
                x_NCHW = module(x_NCHW)
                assert (*x_NCHW.shape[2:], x_NCHW.shape[1]) == step.output
                assert sum(p.numel() for p in module.parameters()) == step.parameters
        tried += 1
    assert tried > 80
