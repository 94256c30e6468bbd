"""Split a network of any family into its frozen prefix and the rest, so that activations in between can be kept.

The prefix gives the same activations for an image in every epoch; only the rest trains. timm's models have no method
that starts in the middle. So the rest is the model's own forward pass with stand-ins: each frozen module before the
split point returns an empty tensor of the right shape at once, and the module at the split point gets the kept
activations as its input. No model family is treated specially. Each split is verified on noise: the rest must give the
same logits and gradients as the whole model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from cnn_tl.networks import freeze_policies


@dataclass
class Call:
    """One call of a module in a forward pass.

    Attributes:
        start, end: when it began and returned, counted in events; `end` is 0 until it returns.
        parent: the call of the module around it; None for the model's own.
        input: its first argument, if that is a tensor. takes_tensor: whether any argument is, or holds, a tensor.
        output: what it returned, as meta tensors.
    """

    name: str
    module: nn.Module
    start: int
    parent: Call | None
    input: Tensor | None
    takes_tensor: bool
    end: int = 0
    output: Any = None


@dataclass(frozen=True)
class SplitModel:
    """A model in two parts: the frozen prefix and the rest.

    Attributes:
        split_point: the name of the first module of the rest.
        shape, dtype: of the activations that it takes, for one image.
        channels_last: whether their memory layout is [N, H, W, C].
    """

    model: nn.Module
    split_point: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool
    _image_shape: torch.Size = field(repr=False)
    _stand_ins: dict[nn.Module, list[Any]] = field(repr=False)
    _traced_batch: int = field(repr=False)

    @torch.no_grad()
    def prefix(self, x_NCHW: Tensor) -> Tensor:
        """Return the activations at the split point, [N, *shape], and compute nothing beyond them.

        The modules before it must be in evaluation mode, as `freeze.train_mode` and `eval()` leave them.
        """
        hook = self.model.get_submodule(self.split_point).register_forward_pre_hook(_stop_with_input)
        try:
            self.model(x_NCHW)
        except _ReachedError as reached:
            return reached.activations
        finally:
            hook.remove()
        raise AssertionError(f"{self.split_point} was not called")

    @contextmanager
    def rest(self, fill: float | None = None) -> Iterator[None]:
        """Inside the block, `model(activations)` takes the activations at the split point and returns the logits.

        Args:
            fill: the value of the stand-ins' tensors; None leaves them uninitialised, since nothing reads them.
        """
        this = _Pass(fill)
        split_point = self.model.get_submodule(self.split_point)
        hooks = [
            self.model.register_forward_pre_hook(lambda _, args: (this.begin(args[0], self._image_shape),)),
            split_point.register_forward_pre_hook(lambda _, args: (this.resume(args[0]), *args[1:])),
        ]
        for module, outputs in self._stand_ins.items():
            vars(module)["forward"] = this.stand_in(module.forward, outputs, self._traced_batch)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module in self._stand_ins:
                del vars(module)["forward"]


def split(model: nn.Module, x_NCHW: Tensor) -> SplitModel | str:
    """Split a model, frozen by `freeze.apply`, as close as possible to its first trainable parameter.

    Precision and device are those of the call: under autocast, the activations have the type that autocast gives them.
    The model itself is not changed.

    Args:
        x_NCHW: at least three images of noise. The trace leaves out the last one, so verifying the split on all of them
            shows that it works for any number of images.

    Returns:
        The split model; or, in words, why it cannot be split.
    """
    assert len(x_NCHW) > 2, "the trace and the verification need different numbers of images"
    if all(p.requires_grad for p in model.parameters()):
        return "no part of it is frozen"
    with _state_restored(model):
        freeze_policies.train_mode(model)
        calls, path = _trace(model, x_NCHW[:-1])
        starts = _starts(path, len(x_NCHW) - 1)
        if not starts:
            return "what trains begins at the image itself"
        whole = _logits_and_gradients(model, x_NCHW)
        for start in starts:
            found = _split_at(model, start, calls, x_NCHW[:-1])
            if _is_correct(found, x_NCHW, whole):
                return found
    return "its frozen part does not hand over to the rest in one tensor that is the same each time"


def _trace(model: nn.Module, x_NCHW: Tensor) -> tuple[list[Call], list[Call]]:
    """Run the model up to the first module with trainable parameters of its own; return all and the open calls."""
    calls: list[Call] = []
    open_calls: list[Call] = []
    names = {module: name for name, module in model.named_modules()}
    events = iter(range(1, 2**63))

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        parent = open_calls[-1] if open_calls else None
        takes_tensor = any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        call = Call(names[module], module, next(events), parent, first, takes_tensor)
        calls.append(call)
        open_calls.append(call)
        if module is not model and any(p.requires_grad for p in module.parameters(recurse=False)):
            raise _ReachedError(x_NCHW)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = open_calls.pop()
        call.end = next(events)
        call.output = tree_map_only(Tensor, lambda t: torch.empty_like(t, device="meta"), output)

    hooks = [hook for m in names for hook in (m.register_forward_pre_hook(enter, with_kwargs=True),
                                              m.register_forward_hook(leave))]  # fmt: skip
    try:
        with torch.no_grad():
            model(x_NCHW)
    except _ReachedError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return calls, open_calls


def _starts(path: list[Call], batch: int) -> list[Call]:
    """Return the calls at which the rest could start, deepest first; of calls with the same input, the outermost."""
    found: list[Call] = []
    for call in path[1:]:
        usable = call.input is not None and call.input is not path[0].input and len(call.input) == batch
        if usable and not any(call.input is other.input for other in found):
            found.append(call)
    return found[::-1]


def _split_at(model: nn.Module, start: Call, calls: list[Call], x_NCHW: Tensor) -> SplitModel:
    """Replace every module by a stand-in that returned before `start`, is frozen and takes a tensor.

    A module that takes no tensor, such as a table of relative positions, does not depend on the image and stays.
    """
    stand_ins: dict[nn.Module, list[Any]] = {}
    for call in calls:
        done = 0 < call.end < start.start
        outermost = call.parent is not None and not 0 < call.parent.end < start.start
        if done and outermost and call.takes_tensor and not any(p.requires_grad for p in call.module.parameters()):
            stand_ins.setdefault(call.module, []).append(call.output)
    kept = start.input
    assert kept is not None, "a start has a tensor as its input"
    last = kept.ndim == 4 and not kept.is_contiguous() and kept.is_contiguous(memory_format=torch.channels_last)
    shape = tuple(kept.shape[1:])
    return SplitModel(model, start.name, shape, kept.dtype, last, x_NCHW.shape[1:], stand_ins, len(x_NCHW))


class _Pass:
    """The state that the hooks and stand-ins of one `SplitModel.rest` share during a forward pass."""

    def __init__(self, fill: float | None) -> None:
        self._fill = fill
        self._kept: Tensor | None = None
        self._position: dict[int, int] = {}

    def begin(self, kept: Tensor, image_shape: torch.Size) -> Tensor:
        """Remember the activations, which are the model's argument, and return an empty image in their place."""
        self._kept, self._position = kept, {}
        return self._empty((len(kept), *image_shape), kept.dtype, kept.device)

    def resume(self, given: Tensor) -> Tensor:
        """Return the activations at the first call of the split point; at later calls, its own input."""
        kept, self._kept = self._kept, None
        return given if kept is None else kept

    def stand_in(self, real: Callable[..., Any], outputs: list[Any], traced: int) -> Callable[..., Any]:
        """Return a forward method that returns empty tensors before the split point, and is the real one after it."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            kept = self._kept
            if kept is None:
                return real(*args, **kwargs)
            position = self._position.get(id(outputs), 0)
            self._position[id(outputs)] = position + 1
            return tree_map_only(Tensor, lambda meta: self._scaled(meta, kept, traced), outputs[position])

        return forward

    def _scaled(self, meta: Tensor, kept: Tensor, traced: int) -> Tensor:
        """Return an empty tensor like the traced one, with the present number of images."""
        rows, *others = meta.shape or (1,)
        rows = rows * len(kept) // traced if rows % traced == 0 else rows
        return self._empty((rows, *others) if meta.ndim else (), meta.dtype, kept.device)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        empty = torch.empty(shape, dtype=dtype, device=device)
        return empty if self._fill is None or not dtype.is_floating_point else empty.fill_(self._fill)


class _ReachedError(Exception):
    """The forward pass has reached the module that it was to reach."""

    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.activations = activations


def _stop_with_input(module: nn.Module, args: tuple[Any, ...]) -> None:
    raise _ReachedError(args[0])


def _is_correct(found: SplitModel, x_NCHW: Tensor, whole: tuple[Tensor, ...]) -> bool:
    """Compare the rest with the whole model; the stand-ins return NaN, so reading one of them would show."""
    try:
        kept = found.prefix(x_NCHW)
        with found.rest(fill=float("nan")):
            part = _logits_and_gradients(found.model, kept.clone())
    except Exception:  # noqa: BLE001 - a model's own code may raise anything on empty tensors: no split here
        return False
    (logits, *gradients), (whole_logits, *whole_gradients) = part, whole
    return torch.equal(logits, whole_logits) and all(map(_is_close, gradients, whole_gradients))


def _is_close(one: Tensor, other: Tensor) -> bool:
    """Compare two gradients: they are sums, and a device may add in another order each time."""
    if one.shape != other.shape or not other.numel():
        return one.shape == other.shape
    return torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def _logits_and_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Return the logits [N, K] and the gradient of each trainable parameter (empty if it gets none)."""
    with _state_restored(model), torch.enable_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        logits = model(x)
        trainable = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(logits.float().square().sum(), trainable, allow_unused=True)
    return (logits.detach(), *(x.new_zeros(0) if g is None else g for g in found))


@contextmanager
def _state_restored(model: nn.Module) -> Iterator[None]:
    """Restore every buffer and every module's mode after the block."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
