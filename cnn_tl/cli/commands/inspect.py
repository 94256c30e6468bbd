"""`cnn-tl inspect`: the layers of a network, or the same arithmetic for layers given as flags."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from cnn_tl.cli import completion
from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.help import Command
from cnn_tl.core.choices import Mode
from cnn_tl.core.errors import UsageError

STEPS = ("conv", "pool", "fc")
HEAD, NO_HEAD = "this is the model's own head", "this model has no head"


class InOrder(Command):
    """Records the order of `--conv`, `--pool` and `--fc`, which the parser keeps as three lists."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Record the order, then parse as usual."""
        order = self.make_parser(ctx).parse_args(args=list(args))[2]
        ctx.meta[__name__] = [parameter.name for parameter in order if parameter.name in STEPS]
        return super().parse_args(ctx, args)


def inspect(
    ctx: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|RUN|BUNDLE", help="Any timm model, a run folder or a bundle.",
            autocompletion=completion.models_and_runs,
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="Mark what trains in this mode of cnn-tl train.", show_default="freeze, or that of the run"),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(metavar="POLICY", help="model.freeze: head, last-stage, last-N, norm, all, or 'layer4,*.bn1'."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="PIXELS", min=1, max=8192, help="Side of the network's input.")
    ] = None,
    depth: Annotated[
        int, typer.Option(min=0, help="Levels of the layer names that make a row (2: layer1.0); 0: every layer.")
    ] = 2,
    input_: Annotated[
        str | None, typer.Option("--input", metavar="HxWxC", help="Without a network: the input, such as 32x32x3.")
    ] = None,
    conv: Annotated[
        list[str] | None,
        typer.Option(metavar="'N@KxK s p'", help="A convolution: '10@5x5 s1 p2'; also same, d2, g4, nobias, zeros, "
                     "reflect, replicate. Repeatable, like --pool and --fc; their order matters."),
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="'KxK s'", help="A pooling: '2x2 s2', '3x3 s2 p1 avg', 'global'.")
    ] = None,
    fc: Annotated[list[str] | None, typer.Option(metavar="N", help="A fully connected layer with N outputs.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON with every detail of each layer.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with the same columns.")] = False,
) -> None:  # fmt: skip
    """Show the layers of a network: sizes, receptive field, parameters, multiply-adds, memory, and what trains.

    The network runs without weights: nothing is downloaded, and hardly any memory is needed. Multiply-adds are those
    of convolutions and matrix products, attention included, for one image. Or give --input and layers of your own.
    """
    if json and csv:
        raise UsageError("--json and --csv exclude each other")
    form: Literal["json", "csv", "table"] = "json" if json else "csv" if csv else "table"
    given = {"conv": conv or [], "pool": pool or [], "fc": fc or []}
    order = [(kind, given[kind].pop(0)) for kind in ctx.meta[__name__]]
    if input_ is not None:
        if model is not None or mode or freeze or image_size:
            raise UsageError("--input is for layers without a network: use it with --conv, --pool and --fc only")
        _steps(input_, order, form)
        return
    if order:
        raise UsageError(f"--{order[0][0]} needs --input HxWxC, such as --input 32x32x3")
    if model is None:
        raise UsageError("name a model, a run folder or a bundle; or give --input 32x32x3 and layers")
    _network(model, mode, freeze, image_size, depth, form)


def _steps(given: str, order: list[tuple[Any, str]], form: str) -> None:
    from cnn_tl.anatomy import layer_notation

    shape = layer_notation.parse_input(given)
    found = layer_notation.walk(shape, [layer_notation.parse_layer(kind, text) for kind, text in order])
    parameters, multiply_adds = sum(s.parameters for s in found), sum(s.multiply_adds for s in found)
    if form == "json":
        console.print_json({"input": list(shape), "steps": [step.to_dict() for step in found],
                            "parameters": parameters, "multiply_adds": multiply_adds})  # fmt: skip
        return
    if form == "csv":
        from cnn_tl.cli.terminal.layers import write_csv

        write_csv([step.to_dict() for step in found])
        return
    cells = [["input", console.times(shape), "1", "", ""]]
    for step in found:
        sees = "all" if step.receptive_field is None else console.square(step.receptive_field)
        costs = [f"{count:,}" if count else "" for count in (step.parameters, step.multiply_adds)]
        cells.append([step.layer, console.times(step.output), sees, *costs])
    cells.append(["total", "", "", f"{parameters:,}", f"{multiply_adds:,}"])
    console.show(console.table(["layer", "output", "sees>", "parameters>", "multiply-adds>"], cells))
    for step in found:
        counting = f"; {step.counting} = {step.parameters:,} parameters" if step.counting else ""
        console.say(f"{step.layer}: {step.arithmetic}{counting}")
        if step.remark:
            console.say(f"  {step.remark}")


def _network(model: str, mode: Mode | None, freeze: str | None, image_size: int | None, depth: int, form: str) -> None:
    from cnn_tl.anatomy.lookup import folder_meant, look_up

    subject, training = look_up(model, mode=mode, freeze=freeze, image_size=image_size)
    from cnn_tl.anatomy import table
    from cnn_tl.cli.terminal import layers
    from cnn_tl.networks import freeze_policies as policies

    layers.WRITERS[form](table.inspect(subject, training, depth))
    if form == "table" and folder_meant(model) is None:
        has_head = bool(policies.head(subject.model))
        console.note(f"{HEAD if has_head else NO_HEAD}; cnn-tl train adds one for your classes")
