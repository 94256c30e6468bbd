"""The layer table of a timm model: what each layer is, what it makes, what it costs, and whether it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from cnn_tl.anatomy.arithmetic import Slide, same_padding
from cnn_tl.anatomy.receptive_field import Field
from cnn_tl.anatomy.subject import Subject
from cnn_tl.anatomy.trace import Run, Window, trace
from cnn_tl.core.errors import UsageError
from cnn_tl.networks import freeze

State = Literal["frozen", "trains", "later", "partly", ""]
ITSELF = "(itself)"
NETWORK = "(network itself)"


@dataclass(frozen=True)
class Row:
    """One layer, or a group of layers that stands as one row.

    Attributes:
        name: as `named_modules` has it; `NAME (itself)` for what a module computes or holds beside its layers.
        kind: the class of the module. layers: how many layers the row stands for.
        calls: how often it ran; 0 where its parameters are used without it, or not at all.
        window: how the window of its one convolution or pooling slides; None for all else.
        padding_mode: what that padding holds: zeros, reflect, replicate, circular, or -inf (max pooling); "" for none.
        same: whether the layer pads by itself, as TensorFlow's "SAME" does.
        input, output: shapes without the batch, as torch has them; None where it did not run.
        receptive_field: rows and columns of the image that a unit of the output sees; None for no fixed window.
        gated: whether a gate that sees the whole image scales it.
        parameters: with biases; a parameter that several modules share is counted once, and a module that several
            share stands, with all its calls, under its first name.
        trainable, state: how many of them train, and whether: `later` is the second phase of lp-ft and auto.
        multiply_adds: of convolutions and matrix products, attention's too.
        activation_bytes: what the outputs of its modules take in float32; what only changes its input takes nothing.
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
    """What trains: in the end, and before that where a run has two phases.

    Attributes:
        mode, policy: as in the recipe. first: the policy of the first phase.
    """

    mode: str
    policy: freeze.Policy
    first: freeze.Policy | None = None


@dataclass(frozen=True)
class Table:
    """A network's rows and its sums; they are the same at every depth.

    Attributes:
        model: the name in timm's registry. input: channels, height, width. training: what the states mean.
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
        """How many parameters the network has."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """How many of them train."""
        return sum(row.trainable for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """What one image costs."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """What the outputs of all layers take for one image, in float32."""
        return sum(row.activation_bytes for row in self.rows)


def inspect(subject: Subject, training: Training, depth: int = 0) -> Table:
    """Run a network without numbers and return its table.

    Args:
        depth: how many parts of a name make a row, such as 2 for `layer1.0`; 0 for every single layer.

    Raises:
        UsageError: the model cannot take images of this size, or has not what the policy names.
    """
    model = subject.model
    trained = freeze.trainable(model, training.policy)
    first = trained if training.first is None else freeze.trainable(model, training.first)
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


def _groups(model: nn.Module, runs: Mapping[str, Run], depth: int) -> list[tuple[str, list[str]]]:
    """Return which modules make a row, in the order of the first calls; empty containers make none."""
    groups: dict[str, list[str]] = {}
    for name, _ in model.named_modules():
        parts = name.split(".")
        groups.setdefault(".".join(parts[:depth]) if depth else name, []).append(name)
    kept = [(name, members) for name, members in groups.items() if _has_content(model, runs, members)]
    orders: dict[str, int] = {}
    last = -1
    for name, members in kept:  # what never runs stays behind what stands before it
        begun = [runs[member].order for member in members if runs[member].calls]
        last = orders[name] = min(begun, default=last)
    return sorted(kept, key=lambda item: orders[item[0]])


def _has_content(model: nn.Module, runs: Mapping[str, Run], members: Sequence[str]) -> bool:
    if len(members) > 1:
        return True
    module, run = model.get_submodule(members[0]), runs[members[0]]
    own = any(True for _ in module.parameters(recurse=False))
    if any(True for _ in module.children()):
        return own or run.multiply_adds > 0 or run.activation_bytes > 0
    idle = isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and module.p == 0)
    return own or (run.calls > 0 and not idle)


def _row(model: nn.Module, runs: Mapping[str, Run], name: str, members: Sequence[str]) -> Row:
    """Describe a module, or those that stand as one row; what trains is filled in later."""
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
    """Return the window over what the layer took in, where it padded that itself before it convolved."""
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
    """Say whether the layer has padded as TensorFlow does, and not left it to the convolution."""
    sides = (window.rows, window.columns)
    tensorflow = all((s.before, s.after) == same_padding(s.size, s.kernel, s.stride, s.dilation) for s in sides)
    return tensorflow and window != ran


def _staged(model: nn.Module, rows: Sequence[tuple[Row, list[str]]]) -> Iterator[Row]:
    """Fill in the stages; what has no parameters belongs to the stage that runs before it."""
    stages = freeze.named_stages(model)
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


def written(row: Row) -> dict[str, Any]:
    """Return a row as plain data, for JSON and CSV; None for what it has not."""
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
    """Return whole pixels as such; where maps are resized to odd sizes, there are parts of them."""
    return int(side) if side == int(side) else round(side, 3)
