"""Receptive fields: what each unit of a network sees of the image, propagated from operation to operation.

A receptive field is a property of convolutions and poolings: its side r and jump j grow by `arithmetic.grow`, and where
branches meet, the largest one counts. It has no fixed size after global pooling, attention, or a linear layer over the
tokens of an image. A gate (squeeze-and-excitation and similar) is a factor computed from the whole image. The map that
it scales keeps its own field but is marked as gated, because strictly it depends on the whole image. The statistics of
normalisation layers are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cnn_tl.anatomy.arithmetic import grow

aten = torch.ops.aten


@dataclass(frozen=True)
class Field:
    """The receptive field of the units of a map.

    Attributes:
        size: rows and columns, in pixels; None if it is not a fixed window.
        jump: distance between the fields of neighbouring units, along rows and columns, in pixels.
        map: height and width of the map.
        channels: numbers at each position of the map.
        gated: whether a gate that sees the whole image has scaled the map.
    """

    size: tuple[float, float] | None
    jump: tuple[float, float]
    map: tuple[int, int]
    channels: int
    gated: bool = False


class Fields:
    """The receptive fields of all tensors that depend on the image; other tensors come from parameters.

    Tensors are identified by their storage, so a view has the field of its base. On the meta device storages take no
    memory, so all are kept alive, and no two share an address.
    """

    def __init__(self, image: Tensor) -> None:
        self._of: dict[int, Field] = {}
        self._alive: list[Any] = []
        channels, height, width = image.shape[1:]
        self.put(image, Field((1, 1), (1, 1), (height, width), channels))

    def of(self, tensor: object) -> Field | None:
        """Return the field of a tensor, or None if it does not depend on the image."""
        return self._of.get(storage_of(tensor)) if isinstance(tensor, Tensor) else None

    def put(self, tensor: Tensor, field: Field) -> None:
        """Record the field of a tensor."""
        self._alive.append(tensor.untyped_storage())
        self._of[storage_of(tensor)] = field

    def follow(self, operation: Any, args: Sequence[Any], out: object) -> None:
        """Record the fields of an operation's outputs."""
        seen = [(tensor, field) for tensor in tensors_in(args) if (field := self.of(tensor))]
        if not seen:
            return
        rule = RULES.get(operation.overloadpacket, _combine)
        field = rule(seen, args, out)
        for tensor in tensors_in(out):
            self.put(tensor, field)


def storage_of(tensor: Tensor) -> int:
    """Return a number that identifies a tensor's storage as long as it lives."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


Seen = Sequence[tuple[Tensor, Field]]
Rule = Callable[[Seen, Sequence[Any], Any], Field]


def _combine(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    """Return the largest field, separately for rows and columns."""
    first = max((field for _, field in seen), key=lambda field: (field.size is None, field.size or (0, 0)))
    gated = any(field.gated for _, field in seen)
    if first.size is None:
        return replace(first, gated=False)
    sizes = [field.size for _, field in seen if field.size is not None]
    return replace(first, size=(max(h for h, _ in sizes), max(w for _, w in sizes)), gated=gated)


def _scaled(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    """Add or multiply: a tensor that is smaller than the map and sees the whole image is a gate."""
    largest = max(tensor.numel() for tensor, _ in seen)
    fixed = [(tensor, field) for tensor, field in seen if field.size is not None]
    gates = [tensor for tensor, field in seen if field.size is None and tensor.numel() < largest]
    if fixed and len(fixed) + len(gates) == len(seen) and gates:
        return replace(_combine(fixed, args, out), gated=True)
    return _combine(seen, args, out)


def _unbounded(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    return replace(seen[0][1], size=None, gated=False)


def _reduced(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    """Take a mean, sum, maximum or norm: over channels the field stays the same, over positions it is unbounded."""
    tensor, field = seen[0]
    dims = next((arg for arg in args[1:] if isinstance(arg, list | tuple)), None)
    if dims is None and len(args) > 1 and isinstance(args[1], int) and not isinstance(args[1], bool):
        dims = [args[1]]
    over = {dim % tensor.ndim for dim in dims} if dims else set(range(tensor.ndim))
    channels = {4: {1, 3}, 5: {1, 2}}.get(tensor.ndim, {tensor.ndim - 1})  # five: branches, then channels
    if len(over) == 1 and over <= channels:
        return field
    return _unbounded(seen, args, out)


def _product(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    """Multiply matrices: a linear layer over channels is a 1x1 convolution, anything else mixes positions."""
    if len(seen) > 1 or not isinstance(out, Tensor):
        return _unbounded(seen, args, out)
    tensor, field = seen[0]
    contracted = tensor.shape[-1] if tensor is _left(args) else tensor.shape[-2]
    positions = field.map[0] * field.map[1]
    if contracted == positions or (contracted in field.map and contracted != field.channels):
        return _unbounded(seen, args, out)
    return replace(field, channels=out.shape[-1])


def _left(args: Sequence[Any]) -> Any:
    return [arg for arg in args if isinstance(arg, Tensor)][-2]  # addmm has the bias before its two factors


def _convolved(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    image, weight, _, stride, _, dilation, transposed = args[:7]
    field = next((field for tensor, field in seen if tensor is image), None)
    if field is None or field.size is None or image.ndim != 4 or transposed:
        return _unbounded(seen, args, out)
    gated = any(tensor is weight for tensor, _ in seen)  # filters mixed depending on the whole image
    found = _slid(field, image, out, weight.shape[2:], stride, dilation)
    return replace(found, gated=found.gated or gated)


def _pooled(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    image, kernel, *rest = args
    stride = rest[0] if rest and rest[0] else kernel
    if seen[0][1].size is None:
        return seen[0][1]
    dilation = rest[2] if len(rest) > 2 and isinstance(rest[2], list | tuple) else [1, 1]
    return _slid(seen[0][1], image, next(tensors_in(out)), kernel, stride, dilation)


def _slid(field: Field, image: Tensor, out: Tensor, kernel: Any, stride: Any, dilation: Any) -> Field:
    assert field.size is not None
    sizes, jumps = [], []
    for axis in (0, 1):
        size, jump = field.size[axis], field.jump[axis]
        folded = round(field.map[axis] / image.shape[-2 + axis])  # neighbours that became channels before
        size, jump = grow(size, jump, max(folded, 1), max(folded, 1))
        size, jump = grow(size, jump, *(int(pair[axis % len(pair)]) for pair in (kernel, stride, dilation)))
        sizes.append(size)
        jumps.append(jump)
    return Field((sizes[0], sizes[1]), (jumps[0], jumps[1]), (out.shape[-2], out.shape[-1]), out.shape[-3], field.gated)


def _resized(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    """Enlarge or shrink a map to another size; interpolation reads one more neighbour."""
    field = seen[0][1]
    if field.size is None:
        return field
    rows, columns = out.shape[-2:]
    jump = field.jump[0] * field.map[0] / rows, field.jump[1] * field.map[1] / columns
    size = field.size[0] + field.jump[0], field.size[1] + field.jump[1]
    return replace(field, size=size, jump=jump, map=(rows, columns))


def _enlarged(seen: Seen, args: Sequence[Any], out: Any) -> Field:
    """Repeat pixels: each has the field of its original."""
    field = seen[0][1]
    return replace(_resized(seen, args, out), size=field.size)


RULES: dict[Any, Rule] = {
    aten.convolution: _convolved,
    aten.max_pool2d_with_indices: _pooled,
    aten.avg_pool2d: _pooled,
    aten._adaptive_avg_pool2d: _unbounded,
    aten.adaptive_max_pool2d: _unbounded,
    **dict.fromkeys((aten.mm, aten.addmm, aten.bmm, aten.baddbmm), _product),
    **dict.fromkeys((aten.mul, aten.mul_, aten.add, aten.add_, aten.sub, aten.div, aten.addcmul), _scaled),
    **dict.fromkeys((aten.mean, aten.sum, aten.amax, aten.max, aten.linalg_vector_norm, aten.var_mean), _reduced),
    **dict.fromkeys((aten.roll, aten.grid_sampler_2d, aten.unfold), _unbounded),
    aten.upsample_bilinear2d: _resized,
    aten.upsample_bicubic2d: _unbounded,
    aten.upsample_nearest2d: _enlarged,
}
"""Operation -> its rule for fields; for other operations the largest field of the inputs counts."""
