"""Layers without a network, such as `10@5x5 s1 p2` on 32x32x3, computed step by step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal, NoReturn

from cnn_tl.anatomy.arithmetic import (
    Slide,
    convolution_multiply_adds,
    convolution_parameters,
    grow,
    linear_parameters,
    same_padding,
)
from cnn_tl.core.errors import UsageError, printable

Kind = Literal["conv", "pool", "fc"]

EXAMPLES: dict[Kind, str] = {"conv": "10@5x5 s1 p2", "pool": "2x2 s2", "fc": "10"}
MODES = ("zeros", "reflect", "replicate")
_SIDES = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?")


@dataclass(frozen=True)
class Layer:
    """One layer as the user wrote it.

    Attributes:
        kind: conv, pool or fc. text: the user's text, normalised.
        filters: filters of a convolution, outputs of a fully connected layer; 0 for pooling.
        kernel: height and width; None for a layer that sees the whole map (fc, and pooling written as `global`).
        stride, padding, dilation: for rows and columns; `padding` is "same" for TensorFlow's padding.
        groups, bias, ceil: as in torch.
        mode: the values of a convolution's padding (zeros, reflect, replicate), or max or avg for pooling.
    """

    kind: Kind
    text: str
    filters: int = 0
    kernel: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | Literal["same"] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True
    ceil: bool = False
    mode: str = "zeros"


@dataclass(frozen=True)
class Step:
    """What one layer does to the shape before it.

    Attributes:
        layer: as the user wrote it. output: height, width, channels; one number after a fully connected layer.
        arithmetic: the formula of the sizes, separately for rows and columns if they differ.
        inputs: the number of inputs of each unit of a fully connected layer; None for other layers.
        parameters, multiply_adds: of the layer. counting: the formula of `parameters`.
        receptive_field: rows and columns of the input that a unit sees; None for all of it.
        remark: that a stride does not divide evenly; else "".
    """

    layer: str
    output: tuple[int, ...]
    arithmetic: str
    inputs: int | None
    parameters: int
    counting: str
    multiply_adds: int
    receptive_field: tuple[int, int] | None
    remark: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def parse_input(text: str) -> tuple[int, int, int]:
    """Read `32x32x3`: height, width and channels, or `9x9` for one channel.

    Raises:
        UsageError: it is written in another way.
    """
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})(?:x(\d{1,6}))?", text.strip())
    if not found or "0" in {(group or "1").lstrip("0") or "0" for group in found.groups()}:
        raise UsageError(f"--input {_shown(text)}: write height x width x channels, like 32x32x3")
    height, width, channels = (int(group or 1) for group in found.groups())
    return height, width, channels


def parse_layer(kind: Kind, text: str) -> Layer:
    """Parse the value of `--conv`, `--pool` or `--fc`.

    A convolution is FILTERS@KERNEL (one filter if only KERNEL is given) with `s` stride, `p` padding or `same`, `d`
    dilation, `g` groups, `nobias`, and zeros, reflect or replicate. A pooling is KERNEL or `global` with s, p, d,
    `ceil`, and max or avg. A fully connected layer is the number of its outputs, optionally with `nobias`.

    Raises:
        UsageError: a word of it is wrong; the message names it.
    """
    words = text.lower().split()
    if not words:
        _refuse(kind, text, "it is empty")
    values: dict[str, Any] = {"stride": None}
    first, *options = words
    if kind == "fc":
        values["filters"] = _positive(kind, text, first)
    else:
        count, at, sides = first.rpartition("@")
        if at and kind == "pool":
            _refuse(kind, text, "pooling has no filters")
        values["kernel"] = None if kind == "pool" and sides == "global" else _pair(kind, text, sides)
        values["filters"] = 0 if kind == "pool" else _positive(kind, text, count) if at else 1
    values["mode"] = "max" if kind == "pool" else "zeros"
    seen: set[str] = set()
    for word in options:
        name, value = _option(kind, text, word)
        if name in seen or (values.get("kernel", ()) is None and name != "mode"):
            _refuse(kind, text, f"{word} is one too many")
        seen.add(name)
        values[name] = value
    if values["stride"] is None:
        values["stride"] = values["kernel"] if kind == "pool" and values["kernel"] else (1, 1)
    return Layer(kind=kind, text=" ".join([kind, *words]), **values)


_NUMBERED = {"s": "stride", "p": "padding", "d": "dilation", "g": "groups"}
_TAKES = {"conv": {*MODES, "s", "p", "d", "g", "same", "nobias"}, "pool": {"s", "p", "d", "max", "avg", "ceil"}}
_TAKES["fc"] = {"nobias"}


def _option(kind: Kind, text: str, word: str) -> tuple[str, Any]:
    letter = word if word.isalpha() else word[0]
    if letter not in _TAKES[kind]:
        _refuse(kind, text, f"{_shown(word)} does not belong there")
    if letter in ("nobias", "ceil"):
        return ("bias", False) if letter == "nobias" else ("ceil", True)
    if letter == "same":
        return "padding", "same"
    if letter in ("max", "avg", *MODES):
        return "mode", letter
    if letter == "g":
        return "groups", _positive(kind, text, word[1:])
    return _NUMBERED[letter], _pair(kind, text, word[1:], zero=letter == "p")


def _pair(kind: Kind, text: str, word: str, zero: bool = False) -> tuple[int, int]:
    found = _SIDES.fullmatch(word)
    if not found:
        _refuse(kind, text, f"{_shown(word)} is not a size")
    pair = int(found[1]), int(found[2] or found[1])
    if min(pair) < 1 and not zero:
        _refuse(kind, text, f"{_shown(word)} is not a size")
    return pair


def _positive(kind: Kind, text: str, word: str) -> int:
    if not re.fullmatch(r"\d{1,9}", word) or int(word) < 1:
        _refuse(kind, text, f"{_shown(word)} is not a number above 0")
    return int(word)


def _refuse(kind: Kind, text: str, reason: str) -> NoReturn:
    raise UsageError(f'--{kind} {_shown(text)}: {reason}; write it like "{EXAMPLES[kind]}"')


def _impossible(layer: Layer, reason: str) -> NoReturn:
    raise UsageError(f"--{layer.kind} {_shown(layer.text.partition(' ')[2])}: {reason}")


def _shown(text: str) -> str:
    return repr(printable(text if len(text) <= 60 else f"{text[:57]}..."))


def walk(shape: tuple[int, int, int], layers: Sequence[Layer]) -> list[Step]:
    """Apply the layers to a shape (height, width, channels), in order.

    Raises:
        UsageError: a window is larger than the padded map, or a layer cannot follow the previous one.
    """
    steps: list[Step] = []
    now: tuple[int, ...] = shape
    fields: tuple[tuple[float, float], tuple[float, float]] | None = ((1, 1), (1, 1))
    for layer in layers:
        if layer.kind == "fc":
            step, fields = _connected(layer, now), None
        elif len(now) == 1:
            _impossible(layer, "after a fully connected layer there is no map to slide over")
        else:
            step, fields = _slid(layer, now, fields)
        steps.append(step)
        now = step.output
    return steps


def _connected(layer: Layer, shape: tuple[int, ...]) -> Step:
    inputs = prod(shape)
    outputs = layer.filters
    return Step(
        layer=layer.text,
        output=(outputs,),
        arithmetic=f"{'*'.join(str(side) for side in shape)} = {inputs:,} inputs",
        inputs=inputs,
        parameters=linear_parameters(inputs, outputs, layer.bias),
        counting=f"({inputs} + 1)*{outputs}" if layer.bias else f"{inputs}*{outputs}",
        multiply_adds=inputs * outputs,
        receptive_field=None,
        remark="",
    )


Fields = tuple[tuple[float, float], tuple[float, float]] | None


def _slid(layer: Layer, shape: tuple[int, ...], fields: Fields) -> tuple[Step, Fields]:
    height, width, channels = shape
    if layer.kernel is None:
        sides = [Slide(height, height), Slide(width, width)]
        fields = None
    else:
        sides = [_side(layer, size, axis) for axis, size in enumerate((height, width))]
    rows, columns = sides
    if fields is not None:
        after = [
            grow(*fields[axis], side.kernel, side.stride, side.dilation) for axis, side in enumerate((rows, columns))
        ]
        fields = (after[0], after[1])
    kernel = rows.kernel, columns.kernel
    if channels % layer.groups or layer.filters % layer.groups:
        both = f"{channels} channels and {layer.filters} filters"
        _impossible(layer, f"{layer.groups} groups do not divide {both}")
    filters = layer.filters or channels
    outputs = rows.output * columns.output * filters
    conv = layer.kind == "conv"
    weights = f"{kernel[0]}*{kernel[1]}*{channels // layer.groups}"
    step = Step(
        layer=layer.text,
        output=(rows.output, columns.output, filters),
        arithmetic=rows.formula if rows == columns else f"{rows.formula}; {columns.formula}",
        inputs=None,
        parameters=convolution_parameters(channels, filters, kernel, layer.groups, layer.bias) if conv else 0,
        counting=(f"({weights} + 1)*{filters}" if layer.bias else f"{weights}*{filters}") if conv else "",
        multiply_adds=convolution_multiply_adds(outputs, channels, kernel, layer.groups) if conv else 0,
        receptive_field=None if fields is None else (int(fields[0][0]), int(fields[1][0])),
        remark=_remark(rows, columns),
    )
    return step, fields


def _side(layer: Layer, size: int, axis: int) -> Slide:
    """Return how the layer's window slides along rows (axis 0) or columns (1)."""
    assert layer.kernel is not None
    kernel, stride, dilation = layer.kernel[axis], layer.stride[axis], layer.dilation[axis]
    if layer.padding == "same":
        before, after = same_padding(size, kernel, stride, dilation)
    else:
        before = after = layer.padding[axis]
    side = Slide(size, kernel, stride, before, after, dilation, layer.ceil)
    if not side.fits:
        _impossible(layer, f"the window covers {side.covered}, more than {_padded(size, before, after)}")
    if layer.mode == "reflect" and max(before, after) >= size:
        _impossible(layer, f"reflection has no {max(before, after)} pixels beside the edge in {size}")
    if layer.kind == "pool" and 2 * before > kernel:
        _impossible(layer, f"padding {before} is more than half of the window")
    return side


def _padded(size: int, before: int, after: int) -> str:
    return f"{size} + {before} + {after} of padding" if before or after else str(size)


def _remark(rows: Slide, columns: Slide) -> str:
    """Return what a stride that does not divide evenly leaves out, in words; "" if it divides."""
    named = ((rows.left_over, "row"), (columns.left_over, "column"))
    parts = [f"{count} {name}{'s' * (count > 1)}" for count, name in named if count]
    if not parts:
        return ""
    if rows.ceil:
        return "the stride does not divide: rounded up, a window may hang over the end"
    return f"the stride does not divide: rounded down, {' and '.join(parts)} at the end not reached"
