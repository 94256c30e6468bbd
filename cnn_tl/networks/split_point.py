"""A network cut in two where its frozen part ends, whatever family it is of.

The frozen part is a prefix that gives the same activations for an image in every epoch, so they can be kept; what
trains is the rest. timm's models have no method that starts in the middle. So the rest is the model's own forward pass,
in which each frozen module before the boundary only pretends: it answers at once with an empty tensor of the right
shape, and the boundary module is handed the kept activations in place of its input. No family is known by name; that
it is right is proved each time, on noise: the rest must give the logits and the gradients of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cnn_tl.networks import freeze


@dataclass
class Call:
    """One call of a module in a forward pass.

    Attributes:
        start, end: the order of events; `end` is 0 until the call returns.
        parent: the call that it was made from; None for the model's own.
        input: its first argument, if that is a tensor. fed: it was given any tensor at all.
        output: what it returned, with shapes and types but no numbers.
    """

    name: str
    module: nn.Module
    start: int
    parent: Call | None
    input: Tensor | None
    fed: bool
    end: int = 0
    output: Any = None


@dataclass(frozen=True)
class Cut:
    """A model in two parts: the frozen prefix, and the rest.

    Attributes:
        boundary: the name of the first module of the rest.
        shape, dtype: of the activations that it takes, for one image.
        channels_last: they lie in memory as [N, H, W, C].
    """

    model: nn.Module
    boundary: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool
    _image_shape: torch.Size = field(repr=False)
    _stand_ins: dict[nn.Module, list[Any]] = field(repr=False)
    _traced_batch: int = field(repr=False)

    @torch.no_grad()
    def prefix(self, x_NCHW: Tensor) -> Tensor:
        """Return the activations at the boundary, [N, *shape], and compute nothing beyond them.

        The modules before the boundary must be in evaluation mode, as `freeze.train_mode` and `eval()` leave them.
        """
        boundary = self.model.get_submodule(self.boundary)
        hook = boundary.register_forward_pre_hook(_stop_with_input)
        try:
            self.model(x_NCHW)
        except _ReachedError as reached:
            return reached.activations
        finally:
            hook.remove()
        raise AssertionError(f"{self.boundary} was not called")

    @contextmanager
    def rest(self, fill: float | None = None) -> Iterator[None]:
        """Inside the body, `model(activations)` takes the activations at the boundary and returns the logits.

        Args:
            fill: what the stand-ins' tensors hold; by default whatever is in memory, for nobody reads it.
        """
        this = _Pass(fill)
        boundary = self.model.get_submodule(self.boundary)
        hooks = [
            self.model.register_forward_pre_hook(lambda _, args: (this.begin(args[0], self._image_shape),)),
            boundary.register_forward_pre_hook(lambda _, args: (this.resume(args[0]), *args[1:])),
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


def cut(model: nn.Module, x_NCHW: Tensor) -> Cut | str:
    """Cut a model, frozen by `freeze.apply`, as near as possible to its first trainable parameter.

    Number format and device are those of the call: made under autocast, the activations are what autocast leaves.
    The model is left as it was.

    Args:
        x_NCHW: three images of noise or more; the last is left out of the trace, so that the proof on all of them
            shows that the number of images is free.

    Returns:
        The two parts; or in words why there are none.
    """
    assert len(x_NCHW) > 2, "a trace and a proof with different numbers of images"
    if all(p.requires_grad for p in model.parameters()):
        return "no part of it is frozen"
    with _as_it_was(model):
        freeze.train_mode(model)
        calls, path = _trace(model, x_NCHW[:-1])
        starts = _starts(path, len(x_NCHW) - 1)
        if not starts:
            return "what trains begins at the image itself"
        whole = _logits_and_gradients(model, x_NCHW)
        for start in starts:
            found = _cut_at(model, start, calls, x_NCHW[:-1])
            if _is_proved(found, x_NCHW, whole):
                return found
    return "its frozen part does not hand over to the rest in one tensor that is the same each time"


def _trace(model: nn.Module, x_NCHW: Tensor) -> tuple[list[Call], list[Call]]:
    """Run the model up to the first module that holds trainable parameters itself; return all calls, and those open."""
    calls: list[Call] = []
    open_calls: list[Call] = []
    names = {module: name for name, module in model.named_modules()}
    events = iter(range(1, 2**63))

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        parent = open_calls[-1] if open_calls else None
        call = Call(names[module], module, next(events), parent, first, fed=_holds_tensor((args, kwargs)))
        calls.append(call)
        open_calls.append(call)
        if module is not model and any(p.requires_grad for p in module.parameters(recurse=False)):
            raise _ReachedError(x_NCHW)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = open_calls.pop()
        call.end, call.output = next(events), _map_tensors(output, lambda t: torch.empty_like(t, device="meta"))

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
    """Return the calls at which the rest could start, the deepest first; of those with one input, the outermost."""
    found: list[Call] = []
    for call in path[1:]:
        usable = call.input is not None and call.input is not path[0].input and len(call.input) == batch
        if usable and not any(call.input is other.input for other in found):
            found.append(call)
    return found[::-1]


def _cut_at(model: nn.Module, start: Call, calls: list[Call], x_NCHW: Tensor) -> Cut:
    """Let everything pretend that was called and had returned before `start`, if it is frozen and was given a tensor.

    What was given none, such as a table of relative positions, cannot depend on the image and stays as it is.
    """
    stand_ins: dict[nn.Module, list[Any]] = {}
    for call in calls:
        done = 0 < call.end < start.start
        outermost = call.parent is not None and not 0 < call.parent.end < start.start
        if done and outermost and call.fed and not any(p.requires_grad for p in call.module.parameters()):
            stand_ins.setdefault(call.module, []).append(call.output)
    kept = start.input
    assert kept is not None, "only calls with a tensor are starts"
    last = kept.ndim == 4 and not kept.is_contiguous() and kept.is_contiguous(memory_format=torch.channels_last)
    shape = tuple(kept.shape[1:])
    return Cut(model, start.name, shape, kept.dtype, last, x_NCHW.shape[1:], stand_ins, len(x_NCHW))


class _Pass:
    """What the hooks and the stand-ins of one `Cut.rest` have in common during a forward pass."""

    def __init__(self, fill: float | None) -> None:
        self._fill = fill
        self._kept: Tensor | None = None
        self._position: dict[int, int] = {}

    def begin(self, kept: Tensor, image_shape: torch.Size) -> Tensor:
        """Take the activations from the model's argument and give it an image of nothing instead."""
        self._kept, self._position = kept, {}
        return self._empty((len(kept), *image_shape), kept.dtype, kept.device)

    def resume(self, nothing: Tensor) -> Tensor:
        """Return the activations where the boundary is reached; when it is called again, what it was given."""
        kept, self._kept = self._kept, None
        return nothing if kept is None else kept

    def stand_in(self, real: Callable[..., Any], outputs: list[Any], traced: int) -> Callable[..., Any]:
        """Return a forward method that answers with empty tensors before the boundary, and is the real one after it."""

        def forward(*args: Any, **kwargs: Any) -> Any:
            kept = self._kept
            if kept is None:
                return real(*args, **kwargs)
            position = self._position.get(id(outputs), 0)
            self._position[id(outputs)] = position + 1
            return _map_tensors(outputs[position], lambda meta: self._scaled(meta, kept, traced))

        return forward

    def _scaled(self, meta: Tensor, kept: Tensor, traced: int) -> Tensor:
        """Return an empty tensor like the traced one, with as many images as there are now."""
        rows, *others = meta.shape or (1,)
        rows = rows * len(kept) // traced if rows % traced == 0 else rows
        return self._empty((rows, *others) if meta.ndim else (), meta.dtype, kept.device)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        empty = torch.empty(shape, dtype=dtype, device=device)
        return empty if self._fill is None or not dtype.is_floating_point else empty.fill_(self._fill)


class _ReachedError(Exception):
    """The forward pass got as far as it has to."""

    def __init__(self, activations: Tensor) -> None:
        super().__init__()
        self.activations = activations


def _stop_with_input(module: nn.Module, args: tuple[Any, ...]) -> None:
    raise _ReachedError(args[0])


def _is_proved(found: Cut, x_NCHW: Tensor, whole: tuple[Tensor, ...]) -> bool:
    """Compare the rest with the whole; the stand-ins' tensors hold NaN, so what reads one of them cannot be equal."""
    try:
        kept = found.prefix(x_NCHW)
        with found.rest(fill=float("nan")):
            part = _logits_and_gradients(found.model, kept.clone())
    except Exception:  # noqa: BLE001 - a model's own code, fed with nothing, may raise anything: no cut here
        return False
    (logits, *gradients), (whole_logits, *whole_gradients) = part, whole
    return torch.equal(logits, whole_logits) and all(map(_near, gradients, whole_gradients))


def _near(one: Tensor, other: Tensor) -> bool:
    """Compare two gradients: they are sums, and not every device adds in the same order twice."""
    if one.shape != other.shape or not other.numel():
        return one.shape == other.shape
    return torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def _logits_and_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Return the logits [N, K] and the gradient of each trainable parameter (empty where none arrives)."""
    with _as_it_was(model), torch.enable_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        logits = model(x)
        trainable = [p for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(logits.float().square().sum(), trainable, allow_unused=True)
    return (logits.detach(), *(x.new_zeros(0) if g is None else g for g in found))


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back every buffer and every module's mode when the body ends."""
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


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return what a module returned with each tensor changed, inside lists, tuples and dictionaries too."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_map_tensors(item, change) for item in value)
    if type(value) is dict:
        return {key: _map_tensors(item, change) for key, item in value.items()}
    return value


def _holds_tensor(value: Any) -> bool:
    found: list[Tensor] = []
    _map_tensors(value, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return bool(found)
