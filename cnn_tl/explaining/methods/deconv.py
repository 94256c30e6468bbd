"""Project an activation back to pixels, as a deconvnet does (Zeiler and Fergus 2014, sec. 2.1).

A deconvnet reverses a CNN with transposed convolutions, unpooling where the maxima were, and rectification at each
layer. The backward pass of a CNN does the same but for one thing: a deconvnet rectifies the signal at an activation
instead of gating it by the forward input (Simonyan et al. 2014, sec. 4; Springenberg et al. 2015, sec. 3.4). So this is
a backward pass with another rule at the activations, which works for every network that autograd handles:

- ReLU and its smooth relatives (ReLU6, SiLU, GELU, hard-swish, ...) rectify the signal;
- gates between 0 and 1 (squeeze-and-excitation) are constant factors, like those of BatchNorm, and pass no signal back;
- convolutions, max pooling, BatchNorm, residual sums and padding are reversed by autograd, without their biases.

The image influences a projection only through the unpooling. In a network without max pooling it shows what a channel
responds to, whatever the image; guided backpropagation (Springenberg et al., sec. 3.4) therefore passes only what is
positive both forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnn_tl.explaining.target_layers import MapLayer, activations

RECTIFIERS: frozenset[Any] = frozenset({
    F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.hardtanh, F.silu, F.gelu,
    F.hardswish, F.mish, F.elu, F.celu, F.selu, F.leaky_relu, F.leaky_relu_, F.prelu, torch.prelu,
})  # fmt: skip
GATES: frozenset[Any] = frozenset({
    torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid, F.hardsigmoid,
})  # fmt: skip


Rule = Callable[[Tensor, Tensor], Tensor]
"""The signal after an activation, from the signal before it and a mask of where the forward input was positive."""

RULES: dict[str, Rule] = {
    "deconv": lambda signal, positive: signal.clamp(min=0),
    "guided": lambda signal, positive: signal.clamp(min=0) * positive,
}


class _Passed(torch.autograd.Function):
    """Returns an activation that is already computed; backward applies `rule` to the signal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rule: Rule) -> Tensor:
        ctx.rule = rule
        ctx.save_for_backward(x > 0)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        return ctx.rule(signals[0], *ctx.saved_tensors), None, None


class BackwardRule(TorchFunctionMode):
    """Within the block, the backward pass of activations (modules or calls) follows `rule`; gates pass nothing."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in GATES:
            return func(args[0].detach().clone(), *args[1:], **kwargs)
        if func in RECTIFIERS:
            y = func(args[0].detach().clone(), *args[1:], **kwargs)
            return _Passed.apply(args[0], y, self.rule)
        return func(*args, **kwargs)


def has_switches(model: nn.Module) -> bool:
    """Say whether the network has max pooling, without which projections do not depend on the image."""
    return any(isinstance(module, nn.MaxPool2d) for module in model.modules())


def project(rule: str, model: nn.Module, layer: MapLayer, x_NCHW: Tensor, channel_N: Tensor, place_N: Tensor) -> Tensor:
    """Project one activation of each image back to its pixels, [N, 3, H, W].

    Args:
        rule: one of `RULES`.
        channel_N: the channel of each activation in `layer`.
        place_N: where it is on the map: row * width + column.
    """
    backward = BackwardRule(RULES[rule])
    return _backward(model, layer, x_NCHW, channel_N, place_N, backward, lambda chosen_N: chosen_N.detach())


def receptive_fields(
    model: nn.Module, layer: MapLayer, x_NCHW: Tensor, channel_N: Tensor, place_N: Tensor
) -> list[tuple[int, int, int, int]]:
    """Return the box (top, left, bottom, right) of the pixels that each activation depends on.

    It is measured, not computed from kernel sizes: where the signal arrives if every activation passes all of it.
    """
    unchanged = BackwardRule(lambda signal, positive: signal)
    signal_NCHW = _backward(model, layer, x_NCHW, channel_N, place_N, unchanged, torch.ones_like)
    boxes = []
    for reached_HW in signal_NCHW.abs().amax(dim=1) > 0:
        rows, columns = (reached_HW.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
        whole = (0, 0, *reached_HW.shape)
        boxes.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if rows else whole)
    return boxes


def _backward(
    model: nn.Module,
    layer: MapLayer,
    x_NCHW: Tensor,
    channel_N: Tensor,
    place_N: Tensor,
    rule: BackwardRule,
    signal: Callable[[Tensor], Tensor],
) -> Tensor:
    """Set all activations but one of each image to 0, and run the backward pass from that one."""
    x_NCHW = x_NCHW.detach().clone().requires_grad_(True)
    with rule:
        maps_NCP = activations(model, layer, x_NCHW).flatten(2)
    chosen_N = maps_NCP[torch.arange(len(x_NCHW)), channel_N, place_N]
    if not chosen_N.requires_grad:
        return torch.zeros_like(x_NCHW)
    (signal_NCHW,) = torch.autograd.grad(chosen_N, x_NCHW, signal(chosen_N))
    return signal_NCHW
