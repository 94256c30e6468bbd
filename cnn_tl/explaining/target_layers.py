"""Find the layers of a network whose outputs are maps, by running one image through it, without naming families."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnn_tl.core.errors import UsageError, printable

LARGEST_SHARE_OF_TOKENS = 0.5
"""If more than this share of a network's layers return tokens after its last map, the network works on tokens."""


@dataclass(frozen=True)
class MapLayer:
    """A module whose output is a map of the image.

    Attributes:
        name, module: the module, and its name in the model.
        channels, height, width: of its output for one image.
        channels_last: whether the output is [N, H, W, C], as in families that mix attention windows with CNN stages.
    """

    name: str
    module: nn.Module
    channels: int
    height: int
    width: int
    channels_last: bool

    def channels_first(self, output: Tensor) -> Tensor:
        """Return the module's output as [N, C, H, W]."""
        return output.permute(0, 3, 1, 2) if self.channels_last else output


class _ReachedError(Exception):
    """Carries the output of the layer out of the forward pass, whose rest need not run."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def activations(model: nn.Module, layer: MapLayer, x_NCHW: Tensor) -> Tensor:
    """Return the layer's activations [N, C, H, W] for images; the layers after it do not run."""

    def stop(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        raise _ReachedError(output)

    hook = layer.module.register_forward_hook(stop)
    try:
        model(x_NCHW)
    except _ReachedError as reached:
        return layer.channels_first(reached.output)
    finally:
        hook.remove()
    raise AssertionError(f"{layer.name} was not called")


def find(model: nn.Module, x_NCHW: Tensor, name: str | None = None) -> MapLayer:
    """Return the layer of that name; by default the last map with more than one place, before the global pool.

    Args:
        x_NCHW: any one image.

    Raises:
        UsageError: there is no such layer, its output is not a map, or the network works on tokens.
    """
    maps, tokens = _watch(model, x_NCHW)
    kind = type(model).__name__
    if name is not None:
        return _named(model, maps, name)
    candidates = [layer for layer in maps.values() if not isinstance(layer.module, nn.Identity)]
    if not candidates or tokens > LARGEST_SHARE_OF_TOKENS:
        raise UsageError(
            f"{kind} works on tokens instead of maps, so this method has no layer to look at; "
            "--method occlusion needs none"
        )
    return candidates[-1]


def first_convolution(model: nn.Module, x_NCHW: Tensor) -> tuple[str, nn.Conv2d]:
    """Return the convolution that the image meets first, and its name.

    Raises:
        UsageError: the model has no convolution.
    """
    calls: list[tuple[str, nn.Module]] = []
    _run_with_hooks(model, x_NCHW, lambda name, module, output: calls.append((name, module)))
    for name, module in calls:
        if isinstance(module, nn.Conv2d):
            return name, module
    raise UsageError(f"{type(model).__name__} has no convolution whose filters could be drawn")


def _named(model: nn.Module, maps: dict[str, MapLayer], name: str) -> MapLayer:
    if name in maps:
        return maps[name]
    large = [layer.name for layer in maps.values() if "." not in layer.name or layer.name.count(".") == 1]
    near = difflib.get_close_matches(name, maps, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"some that do: {', '.join(large[-8:])}"
    known = name in dict(model.named_modules())
    problem = "returns no map of the image" if known else f"is not in this {type(model).__name__}"
    raise UsageError(f"layer {printable(name)} {problem}; {hint}")


def _watch(model: nn.Module, x_NCHW: Tensor) -> tuple[dict[str, MapLayer], float]:
    """Return all maps in the order of their completion, and the share of leaf calls that return tokens after them.

    Tokens have three dimensions; linear layers after the maps, as in LeNet-5 and VGG, return two.
    """
    maps: dict[str, MapLayer] = {}
    leaves, tokens_after = 0, 0

    def record(name: str, module: nn.Module, output: object) -> None:
        nonlocal leaves, tokens_after
        leaf = not any(True for _ in module.children())
        leaves += leaf
        tokens_after += leaf and isinstance(output, Tensor) and output.ndim == 3
        found = _as_map(name, module, output, x_NCHW.shape[-2], x_NCHW.shape[-1]) if name else None
        if found is not None:
            maps.pop(name, None)
            maps[name] = found
            tokens_after = 0

    _run_with_hooks(model, x_NCHW, record)
    return maps, tokens_after / max(leaves, 1)


@torch.no_grad()
def _run_with_hooks(model: nn.Module, x_NCHW: Tensor, record: Callable[[str, nn.Module, object], None]) -> None:
    def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], object], None]:
        return lambda module, args, output: record(name, module, output)

    hooks = [module.register_forward_hook(hook_of(name)) for name, module in model.named_modules()]
    try:
        model(x_NCHW)
    finally:
        for hook in hooks:
            hook.remove()


def _as_map(name: str, module: nn.Module, output: object, height: int, width: int) -> MapLayer | None:
    """Return the layer if its output is a map, [1, C, h, w] or [1, h, w, C], with h x w in the image's proportions."""
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[0] != 1:
        return None
    if isinstance(module, nn.Dropout | nn.Softmax):  # after a map the same map again; inside attention no map
        return None
    _, first, second, third = output.shape
    if _is_grid(second, third, height, width):
        return MapLayer(name, module, first, second, third, channels_last=False)
    if _is_grid(first, second, height, width):
        return MapLayer(name, module, third, first, second, channels_last=True)
    return None


def _is_grid(rows: int, columns: int, height: int, width: int) -> bool:
    inside = 1 < rows <= height and 1 < columns <= width
    return inside and abs(rows * width - columns * height) < max(height, width)
