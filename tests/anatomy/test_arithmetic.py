"""The course's exercises, and torch's own answers to the same questions."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from cnn_tl.anatomy.arithmetic import Slide, grow, same_padding


@pytest.mark.parametrize(
    ("slide", "written"),
    [
        (Slide(32, 5, 1, 2, 2), "(32 + 2*2 - 5)/1 + 1 = 32"),
        (Slide(16, 2, 2), "(16 - 2)/2 + 1 = 8"),
        (Slide(9, 3, 2), "(9 - 3)/2 + 1 = 4"),
        (Slide(9, 3, 1, 1, 1), "(9 + 2*1 - 3)/1 + 1 = 9"),
        (Slide(10, 3), "(10 - 3)/1 + 1 = 8"),
        (Slide(10, 3, 2), "floor((10 - 3)/2) + 1 = 4"),
        (Slide(10, 3, 2, ceil=True), "ceil((10 - 3)/2) + 1 = 5"),
        (Slide(224, 3, 2, 0, 1), "(224 + 0 + 1 - 3)/2 + 1 = 112"),
        (Slide(9, 3, dilation=2), "(9 - 5)/1 + 1 = 5"),
    ],
)
def test_the_formula_with_its_numbers(slide: Slide, written: str) -> None:
    assert slide.formula == written


def test_sizes_are_those_of_torch() -> None:
    tried = 0
    for size, kernel, stride, padding, dilation in itertools.product(
        range(1, 12), range(1, 5), (1, 2, 3), (0, 1, 2), (1, 2)
    ):
        slide = Slide(size, kernel, stride, padding, padding, dilation)
        if not slide.fits:
            continue
        line = torch.zeros(1, 1, size)
        assert F.conv1d(line, torch.zeros(1, 1, kernel), None, stride, padding, dilation).shape[-1] == slide.output
        if 2 * padding <= kernel:
            ceil = Slide(size, kernel, stride, padding, padding, dilation, ceil=True)
            pooled = F.max_pool1d(line, kernel, stride, padding, dilation, ceil_mode=True)
            assert pooled.shape[-1] == ceil.output, ceil
        tried += 1
    assert tried > 500


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", range(1, 14))
def test_same_padding_gives_the_size_over_the_stride(size: int, stride: int) -> None:
    for kernel, dilation in itertools.product(range(1, 6), (1, 2)):
        before, after = same_padding(size, kernel, stride, dilation)
        assert Slide(size, kernel, stride, before, after, dilation).output == -(-size // stride)
        assert after - before in (0, 1)


def test_the_receptive_field_is_what_a_gradient_reaches() -> None:
    layers = [(3, 2, 1), (3, 1, 2), (2, 2, 1), (5, 1, 1)]
    field, jump = 1.0, 1.0
    line = torch.zeros(1, 1, 101, requires_grad=True)
    out = line
    for kernel, stride, dilation in layers:
        out = F.conv1d(out, torch.ones(1, 1, kernel), None, stride, 0, dilation)
        field, jump = grow(field, jump, kernel, stride, dilation)
    one, next_one = (torch.autograd.grad(out[0, 0, n], line, retain_graph=True)[0].flatten() for n in (3, 4))
    reached = one.nonzero().flatten()
    assert reached[-1] - reached[0] + 1 == field
    assert next_one.nonzero()[0] - reached[0] == jump
