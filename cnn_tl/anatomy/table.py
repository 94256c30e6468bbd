"""The layer table of a timm model: what each layer is, its output, its cost, and whether it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from cnn_tl.anatomy.arithmetic import Slide, same_padding
from cnn_tl.anatomy.inspected_network import Subject
from cnn_tl.anatomy.receptive_field import Field
from cnn_tl.anatomy.trace import ModuleRun, Window, trace
from cnn_tl.core.errors import UsageError
from cnn_tl.networks import freeze_policies

State = Literal["frozen", "trains", "later", "partly", ""]
ITSELF = "(itself)"
NETWORK = "(network itself)"


@dataclass(frozen=True)
class Row:
    """One layer, or a group of layers shown as one row.

    Attributes:
        name: as in `named_modules`; `NAME (itself)` for what a module computes or holds apart from its layers.
        kind: the class of the module. layers: the number of layers in the row.
        calls: how often it ran; 0 if its parameters are used without it, or not at all.
        window: how the window of its only convolution or pooling slides; None for anything else.
        padding_mode: the values of the padding: zeros, reflect, replicate, circular, or -inf (max pooling); "": none.
        same: whether the layer pads by itself, like TensorFlow's "SAME".
        input, output: shapes without the batch, in torch's order; None if it did not run.
        receptive_field: rows and columns of the image that a unit of the output sees; None if it is not fixed.
        gated: whether a gate that sees the whole image scales the output.
        parameters: including biases. A parameter that several modules share is counted once; a shared module is listed,
            with all its calls, under its first name.
        trainable: the number of parameters that train. state: `later` is the second phase of lp-ft and auto.
        multiply_adds: of convolutions and matrix products, including attention.
        activation_bytes: of the outputs of its modules in float32; in-place operations take nothing.
        stage: as in the receipt of a run.
    """

    name: str
    kind: str
    layers: int
    calls: int
    window: Window | None
    padding_mode: str
    same: bool
    input: tuple[int, ...] | None
    output: tuple[int, ...] | None
    receptive_field: tuple[float, float] | None
    gated: bool
    parameters: int
    trainable: int
    state: State
    multiply_adds: int
    activation_bytes: int
    stage: str


@dataclass(frozen=True)
class Training:
    """What trains in a run.

    Attributes:
        mode, policy: as in the recipe. first: the policy of the first of two phases; None if there is only one.
    """

    mode: str
    policy: freeze_policies.Policy
    first: freeze_policies.Policy | None = None


@dataclass(frozen=True)
class Table:
    """A network's rows and their sums, which are the same at every depth.

    Attributes:
        model: the name in timm's registry. input: channels, height, width. training: what `state` refers to.
        rows: in the order in which the layers first run.
        parameters, trainable, multiply_adds, activation_bytes: of the whole network, for one image.
    """

    model: str
    input: tuple[int, int, int]
    training: Training
    rows: tuple[Row, ...]

    def __repr__(self) -> str:
        """Return such as `<Table resnet18: 31 rows, 11,689,512 parameters, 1,814,073,344 multiply-adds>`."""
        sums = f"{self.parameters:,} parameters, {self.multiply_adds:,} multiply-adds"
        return f"<Table {self.model}: {len(self.rows)} rows, {sums}>"

    @property
    def parameters(self) -> int:
        """The number of parameters of the network."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """The number of parameters that train."""
        return sum(row.trainable for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds for one image."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """The bytes of all layers' outputs for one image, in float32."""
        return sum(row.activation_bytes for row in self.rows)


def inspect(subject: Subject, training: Training, depth: int = 0) -> Table:
    """Trace a network and return its layer table.

    Args:
        depth: the number of name components that make a row, such as 2 for `layer1.0`; 0 for every single layer.

    Raises:
        UsageError: the model does not accept images of this size, or has nothing that the policy names.
    """
    model = subject.model
    trained = freeze_policies.trainable(model, training.policy)
    first = trained if training.first is None else freeze_policies.trainable(model, training.first)
    channels, height, width = subject.input
    try:
        runs = trace(model, height, width, channels)
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        size = f"{height} x {width} pixels"
        raise UsageError(f"{subject.name} cannot take images of {size}: {reason}") from error
    owned = {name: [f"{name}.{own}".lstrip(".") for own, _ in m.named_parameters(recurse=False)]
             for name, m in model.named_modules()}  # fmt: skip
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    rows = []
    for name, members in _groups(model, runs, depth):
        names = [parameter for member in members for parameter in owned[member] if parameter in sizes]
        row = _row(model, runs, name, members)
        count = sum(sizes[n] for n in names)
        trains = sum(sizes[n] for n in names if n in trained)
        state = _state(count, trains, sum(sizes[n] for n in names if n in first))
        rows.append((replace(row, parameters=count, trainable=trains, state=state), names))
    return Table(subject.name, subject.input, training, tuple(_staged(model, rows)))


def _state(parameters: int, trains: int, first: int) -> State:
    if not parameters:
        return ""
    if not trains:
        return "frozen"
    if trains < parameters:
        return "partly"
    return "trains" if first else "later"


def _groups(model: nn.Module, runs: Mapping[str, ModuleRun], depth: int) -> list[tuple[str, list[str]]]:
    """Return the modules of each row, in the order of their first calls; empty containers get no row."""
    groups: dict[str, list[str]] = {}
    for name, _ in model.named_modules():
        parts = name.split(".")
        groups.setdefault(".".join(parts[:depth]) if depth else name, []).append(name)
    kept = [(name, members) for name, members in groups.items() if _has_content(model, runs, members)]
    orders: dict[str, int] = {}
    last = -1
    for name, members in kept:  # modules that never run stay after the previous one
        begun = [runs[member].order for member in members if runs[member].calls]
        last = orders[name] = min(begun, default=last)
    return sorted(kept, key=lambda item: orders[item[0]])


def _has_content(model: nn.Module, runs: Mapping[str, ModuleRun], members: Sequence[str]) -> bool:
    if len(members) > 1:
        return True
    module, run = model.get_submodule(members[0]), runs[members[0]]
    own = any(True for _ in module.parameters(recurse=False))
    if any(True for _ in module.children()):
        return own or run.multiply_adds > 0 or run.activation_bytes > 0
    idle = isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0)
    return own or (run.calls > 0 and not idle)


def _row(model: nn.Module, runs: Mapping[str, ModuleRun], name: str, members: Sequence[str]) -> Row:
    """Describe the modules of one row; what trains is filled in later."""
    module = model.get_submodule(name)
    ran = sorted((runs[member] for member in members if runs[member].calls), key=lambda run: run.order)
    itself = runs[name]
    alone = len(members) == 1 and any(True for _ in module.children())
    shown = itself if itself.calls or not ran else replace(ran[-1], calls=0, input=ran[0].input)
    over_a_map = len(members) == 1 and len(shown.windows) == 1 and len(shown.input or ()) == 3
    window = shown.windows[0] if over_a_map else None
    if window is not None:
        window = _with_own_padding(window, shown.input)
    padded = window is not None and any(side.before or side.after for side in (window.rows, window.columns))
    mode = str(getattr(module, "padding_mode", getattr(module, "pad_mode", "zeros")))
    field = shown.field or Field(None, (1, 1), (1, 1), 1)
    return Row(
        name=(f"{name} {ITSELF}" if name else NETWORK) if alone else name,
        kind=type(module).__name__,
        layers=sum(not any(True for _ in model.get_submodule(member).children()) for member in members),
        calls=itself.calls or max((run.calls for run in ran), default=0),
        window=window,
        padding_mode="" if not padded else "-inf" if "Max" in type(module).__name__ else mode,
        same=padded and window is not None and mode == "zeros" and _is_same(window, shown.windows[0]),
        input=shown.input,
        output=shown.output,
        receptive_field=field.size,
        gated=field.gated,
        parameters=0,
        trainable=0,
        state="",
        multiply_adds=sum(run.multiply_adds for run in ran),
        activation_bytes=sum(run.activation_bytes for run in ran),
        stage="",
    )


def _with_own_padding(window: Window, taken: tuple[int, ...] | None) -> Window:
    """Return the window over the layer's input, if the layer pads it by itself before it convolves."""
    if taken is None or len(taken) != 3:
        return window
    sides = []
    for side, size in zip((window.rows, window.columns), taken[1:], strict=True):
        more = side.size - size
        if not 0 <= more <= 2 * side.covered:
            return window
        sides.append(replace(side, size=size, before=side.before + more // 2, after=side.after + more - more // 2))
    return Window(sides[0], sides[1], window.groups)


def _is_same(window: Window, ran: Window) -> bool:
    """Return whether the layer itself, not its convolution, has padded the input as TensorFlow does."""
    sides = (window.rows, window.columns)
    tensorflow = all((s.before, s.after) == same_padding(s.size, s.kernel, s.stride, s.dilation) for s in sides)
    return tensorflow and window != ran


def _staged(model: nn.Module, rows: Sequence[tuple[Row, list[str]]]) -> Iterator[Row]:
    """Fill in the stages; a row without parameters belongs to the stage of the row before it."""
    stages = freeze_policies.named_stages(model)
    number = {name: index for index, (_, names) in enumerate(stages) for name in names}
    last = stages[0][0]
    for row, names in rows:
        found = sorted({number[name] for name in names})
        if found:
            low, high = stages[found[0]][0], stages[found[-1]][0]
            last = low if low == high else f"{low} to {high}"
        yield replace(row, stage=last)


def sides(window: Window) -> tuple[Slide, Slide]:
    """Return how a window slides along rows and columns."""
    return window.rows, window.columns


def as_dict(row: Row) -> dict[str, Any]:
    """Return a row as plain data for JSON and CSV; None for values that it does not have."""
    window = row.window
    pair = (lambda name: [getattr(side, name) for side in sides(window)]) if window else (lambda name: None)
    return {
        "name": row.name,
        "kind": row.kind,
        "layers": row.layers,
        "calls": row.calls,
        "stage": row.stage,
        "kernel": pair("kernel"),
        "stride": pair("stride"),
        "padding": [[side.before, side.after] for side in sides(window)] if window else None,
        "padding_mode": row.padding_mode or None,
        "same": row.same,
        "ceil": window is not None and window.rows.ceil,
        "dilation": pair("dilation"),
        "groups": window.groups or None if window else None,
        "input": None if row.input is None else list(row.input),
        "output": None if row.output is None else list(row.output),
        "receptive_field": None if row.receptive_field is None else [_plain(side) for side in row.receptive_field],
        "gated": row.gated,
        "parameters": row.parameters,
        "trainable": row.trainable,
        "state": row.state or None,
        "multiply_adds": row.multiply_adds,
        "activation_bytes": row.activation_bytes,
    }


def _plain(side: float) -> float:
    """Return a whole number of pixels as an int; maps resized to odd sizes have fractions."""
    return int(side) if side == int(side) else round(side, 3)
