"""Trace a network once on the meta device: the input, output and cost of each of its modules.

Tensors on torch's meta device have shapes but no memory, so even the largest model costs nothing. Every operation is
intercepted where torch dispatches it, and counts for the innermost module that is running. So attention and other
functions without a module of their own count for the module that calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cnn_tl.anatomy.arithmetic import Slide
from cnn_tl.anatomy.receptive_field import Field, Fields, storage_of, tensors_in
from cnn_tl.core.monkeypatch import attribute_replaced

aten = torch.ops.aten


@dataclass(frozen=True)
class Window:
    """How the window of a convolution or pooling slid along rows and columns; `groups` is 0 for pooling."""

    rows: Slide
    columns: Slide
    groups: int


@dataclass
class ModuleRun:
    """What one module did in its first call, and the sums of all its calls.

    Attributes:
        calls: how often it ran. order: its position among the modules, by their first calls.
        input, output: shapes without the batch; None if it did not run, or takes no tensor.
        windows: of its own convolutions and poolings, without those of modules inside it.
        multiply_adds: its own, without those of modules inside it.
        activation_bytes: the size in float32 of module outputs that it has allocated; in-place operations allocate
            nothing.
        field: the receptive field of a unit of its output.
    """

    calls: int = 0
    order: int = -1
    input: tuple[int, ...] | None = None
    output: tuple[int, ...] | None = None
    windows: list[Window] = field(default_factory=list)
    multiply_adds: int = 0
    activation_bytes: int = 0
    field: Field | None = None


def trace(model: nn.Module, height: int, width: int, channels: int = 3) -> dict[str, ModuleRun]:
    """Run a model on the meta device with one image; return what each module did, by name ("" is the network itself).

    The model is put in evaluation mode.

    Raises:
        Exception: whatever the model raises if it does not accept images of this size.
    """
    model.eval()
    with torch.device("meta"), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), ExitStack() as stack:
        image = torch.empty(1, channels, height, width)
        tracer = _Tracer(image)
        for hook in tracer.hooks(model):
            stack.callback(hook.remove)
        for module in model.modules():
            if isinstance(module, nn.LSTM):
                stack.enter_context(attribute_replaced(module, "forward", partial(tracer.lstm, module)))
        with tracer:
            model(image)
    return tracer.runs


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, and which module it belongs to."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.runs: dict[str, ModuleRun] = {}
        self.fields = Fields(image)
        self._open: list[str] = []
        self._orders = count()
        self._made_in: dict[int, str] = {}
        self._alive: list[Any] = []  # freed storages could share an address with later ones
        self._kept = {storage_of(image)}

    def hooks(self, model: nn.Module) -> list[Any]:
        """Register hooks that follow the start and the end of every module."""
        made: list[Any] = []
        for name, module in model.named_modules():
            self.runs[name] = ModuleRun()
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
            self._open.append(name)

        return enter

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(_: nn.Module, __: Any, out: Any) -> None:
            self._open.pop()
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

    def lstm(self, module: nn.LSTM, x: Tensor, state: Any = None) -> tuple[Tensor, None]:
        """Stand in for an LSTM, which torch would unroll step by step: each step multiplies with every weight once."""
        weights = [weight for name, weight in module.named_parameters() if name.startswith("weight")]
        self.runs[self._open[-1]].multiply_adds += x.shape[0] * x.shape[1] * sum(w.numel() for w in weights)
        features = (module.proj_size or module.hidden_size) * (2 if module.bidirectional else 1)
        out = x.new_empty(*x.shape[:2], features)
        if seen := self.fields.of(x):
            self.fields.put(out, replace(seen, size=None))
        return out, None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.fields.follow(func, args, out)
        name = self._open[-1] if self._open else ""
        for tensor in tensors_in(out):
            self._alive.append(tensor.untyped_storage())
            self._made_in.setdefault(storage_of(tensor), name)
        run = self.runs[name]
        flops = flop_registry.get(func.overloadpacket)  # as in the literature: only convolutions and matrix products
        if flops is not None:
            run.multiply_adds += flops(*args, **(kwargs or {}), out_val=out) // 2
        window = WINDOWS.get(func.overloadpacket)
        if window is not None and run.calls == 1 and args[0].ndim == 4:
            slid = window(args)
            run.windows += [slid] if slid else []
        return out


def _convolution_window(args: Sequence[Any]) -> Window | None:
    image, weight, _, stride, padding, dilation, transposed, _, groups = args
    if transposed:  # its window slides over the output
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
"""Operation -> function from its arguments to its sliding window."""
