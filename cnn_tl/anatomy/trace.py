"""A network run once without numbers: what each of its modules takes in, puts out, and computes.

The model lies on torch's meta device, where tensors have shapes and no memory, so the largest one takes as little as
the smallest. Every operation is seen where torch hands it to the device, and belongs to the innermost module that is
running; so attention and other functions without a module of their own are counted with the module that calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from math import prod
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from cnn_tl.anatomy.arithmetic import Slide
from cnn_tl.anatomy.receptive_field import Field, Fields, storage_of, tensors_in

aten = torch.ops.aten


@dataclass(frozen=True)
class Window:
    """A convolution or pooling as it ran: how its window slid along rows and columns, and its groups (0: pooling)."""

    rows: Slide
    columns: Slide
    groups: int


@dataclass
class Run:
    """What one module did in its first call, and the sums of all its calls.

    Attributes:
        calls: how often it ran. order: its place among the modules, by their first calls.
        input, output: shapes without the batch; None for a module that did not run, or that takes no tensor.
        windows: convolutions and poolings that belong to no module inside it.
        multiply_adds: those of its own, without the modules inside it.
        activation_bytes: what it has made of that which modules put out, in float32; changing an input makes nothing.
        field: what a unit of its output sees.
    """

    calls: int = 0
    order: int = -1
    input: tuple[int, ...] | None = None
    output: tuple[int, ...] | None = None
    windows: list[Window] = field(default_factory=list)
    multiply_adds: int = 0
    activation_bytes: int = 0
    field: Field | None = None


def trace(model: nn.Module, height: int, width: int, channels: int = 3) -> dict[str, Run]:
    """Send one image without numbers through a model on the meta device; return what ran, by the modules' names.

    The model is put in evaluation mode. The network itself has the empty name.

    Raises:
        Exception: whatever the model raises where it cannot take images of this size.
    """
    model.eval()
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), ExitStack() as stack:
        image = torch.empty(1, channels, height, width)
        watch = _Watch(image)
        for hook in watch.hooks(model):
            stack.callback(hook.remove)
        for module in model.modules():
            if isinstance(module, nn.LSTM):
                stack.enter_context(mock.patch.object(module, "forward", partial(watch.recur, module)))
        with watch:
            model(image)
    return watch.runs


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, and which module it belongs to."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.runs: dict[str, Run] = {}
        self.fields = Fields(image)
        self._inside: list[tuple[str, set[int]]] = []
        self._orders = count()
        self._made_in: dict[int, str] = {}
        self._alive: list[Any] = []  # no two storages are to share an address
        self._kept = {storage_of(image)}

    def hooks(self, model: nn.Module) -> list[Any]:
        """Let every module say when it begins and ends."""
        made: list[Any] = []
        for name, module in model.named_modules():
            self.runs[name] = Run()
            made.append(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
            made.append(module.register_forward_hook(self._leaving(name)))
        return made

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            run = self.runs[name]
            taken = next(tensors_in([args, kwargs]), None)
            if not run.calls:
                run.order = next(self._orders)
                run.input = None if taken is None else tuple(taken.shape[1:])
            run.calls += 1
            self._inside.append((name, set()))

        return enter

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(_: nn.Module, __: Any, out: Any) -> None:
            self._inside.pop()
            run = self.runs[name]
            given = list(tensors_in(out))
            if given and run.calls == 1:
                run.output = tuple(given[0].shape[1:])
                run.field = self.fields.of(given[0])
            for tensor in given:
                storage = storage_of(tensor)
                if storage in self._made_in and storage not in self._kept:
                    self._kept.add(storage)
                    self.runs[self._made_in[storage]].activation_bytes += 4 * tensor.numel()

        return leave

    def recur(self, module: nn.LSTM, x: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Stand in for an LSTM, which torch would unroll place by place: every place meets every weight once."""
        weights = [weight for name, weight in module.named_parameters() if name.startswith("weight")]
        self.runs[self._inside[-1][0]].multiply_adds += x.shape[0] * x.shape[1] * sum(w.numel() for w in weights)
        features = (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
        out = x.new_empty(*x.shape[:2], features)
        if seen := self.fields.of(x):
            self.fields.put(out, replace(seen, size=None))
        return out, None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.fields.follow(func, args, out)
        name = self._inside[-1][0] if self._inside else ""
        for tensor in tensors_in(out):
            self._alive.append(tensor.untyped_storage())
            self._made_in.setdefault(storage_of(tensor), name)
        run = self.runs[name]
        counted = COUNTED.get(func.overloadpacket)
        if counted is not None:
            run.multiply_adds += counted(args, out)
        window = WINDOWS.get(func.overloadpacket)
        if window is not None and run.calls == 1 and args[0].ndim == 4:
            slid = window(args)
            run.windows += [slid] if slid else []
        return out


def _convolution(args: Sequence[Any], out: Tensor) -> int:
    """Count u*u*C/groups for each output, or for each input where the convolution is transposed."""
    image, weight, transposed = args[0], args[1], args[6]
    return int((image if transposed else out).numel() * prod(weight.shape[1:]))


def _product(args: Sequence[Any], out: Tensor) -> int:
    """Count the length of the sum behind each number of a matrix product."""
    left = [arg for arg in args if isinstance(arg, Tensor)][-2]
    return int(out.numel() * left.shape[-1])


COUNTED: dict[Any, Callable[[Sequence[Any], Tensor], int]] = {
    aten.convolution: _convolution,
    **dict.fromkeys((aten.mm, aten.addmm, aten.bmm, aten.baddbmm), _product),
}
"""What is counted, as in the literature: convolutions and matrix products. Biases, normalisation, activation functions,
pooling and sums are not."""


def _convolution_window(args: Sequence[Any]) -> Window | None:
    image, weight, _, stride, padding, dilation, transposed, _, groups = args
    if transposed:  # which spreads pixels, and slides over none
        return None
    sides = [_slide(image, axis, weight.shape[2:], stride, padding, dilation) for axis in (0, 1)]
    return Window(sides[0], sides[1], groups)


def _pool_window(args: Sequence[Any]) -> Window:
    image, kernel, *rest = args
    stride = rest[0] if rest and rest[0] else kernel
    padding = rest[1] if len(rest) > 1 else [0, 0]
    flags = [arg for arg in rest[2:4] if isinstance(arg, bool)]
    dilation = rest[2] if len(rest) > 2 and isinstance(rest[2], list | tuple) else [1, 1]
    ceil = bool(flags and flags[0])
    sides = [_slide(image, axis, kernel, stride, padding, dilation, ceil) for axis in (0, 1)]
    return Window(sides[0], sides[1], 0)


def _slide(
    image: Tensor, axis: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool = False
) -> Slide:
    size, step, around, holes = (int(pair[axis % len(pair)]) for pair in (kernel, stride, padding, dilation))
    return Slide(int(image.shape[-2 + axis]), size, step, around, around, holes, ceil)


WINDOWS: dict[Any, Callable[[Sequence[Any]], Window | None]] = {
    aten.convolution: _convolution_window,
    aten.max_pool2d_with_indices: _pool_window,
    aten.avg_pool2d: _pool_window,
}
"""Operations with a window that slides."""
