"""`cnn-tl models`: search the models that `--model` takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import UsageError
from cnn_tl.core.formatting import percent

if TYPE_CHECKING:
    from cnn_tl.networks.pretrained.catalog import ModelRow

PLACES = {"package": "here (package)", "cache": "here (cache)", "download": "download", "none": "none"}

_THE_OTHERS = "for the other 1,300: pip install cnn-tl"


def models(
    query: Annotated[
        str | None, typer.Argument(help="Part of a name, or a glob such as 'vit_tiny*'.", show_default=False)
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only models whose weights are on this machine.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many models.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search models: parameters, multiply-adds, input size, accuracy, and where their weights are."""
    from cnn_tl.networks.pretrained import catalog, weights

    names = catalog.matching(query, here_only=here)
    if query and not names:
        if here and (others := len(catalog.matching(query))):
            raise UsageError(f"none of the models that match {query!r} ({others}) has weights here; leave out --here")
        if not catalog.lists_all():
            raise UsageError(f"none of the models that need no torch matches {query!r}; {_THE_OTHERS}")
        raise UsageError(f"no model matches {query!r}{weights.closest(query, catalog.matching())}")
    rows = [(catalog.describe(name), _multiply_adds(name)) for name in names[:limit]]
    if as_json:
        console.print_json([{**asdict(row), "here": row.here, "multiply_adds": count} for row, count in rows])
        return
    cells = [_cells(row, count) for row, count in rows]
    console.show(console.table(["model", "parameters>", "GMACs>", "input>", "ImageNet>", "weights"], cells, dense=True))
    if any(row.top1 for row, _ in rows):
        console.note(
            "ImageNet: top-1 accuracy of the weights as timm reports it, at its own test size; empty where unknown. "
            "GMACs: billions of multiply-adds per image. Which is best for your images: cnn-tl recommend DATA"
        )
    if len(names) > limit:
        console.note(f"{len(names) - limit} more match; narrow the query or raise --limit")
    if not catalog.lists_all():
        console.note(f"only the models that need no torch are listed; {_THE_OTHERS}")


def _multiply_adds(name: str) -> int | None:
    from cnn_tl.networks.pretrained import catalog

    if not catalog.lists_all():
        return None
    from cnn_tl.anatomy.inspected_network import multiply_adds

    return multiply_adds(name)


def _cells(row: ModelRow, count: int | None) -> list[str]:
    return [
        row.name,
        f"{row.parameters / 1e6:.1f} M",
        "" if count is None else f"{count / 1e9:,.2f}",
        f"{row.input_size} px",
        "" if row.top1 is None else percent(row.top1 / 100),
        PLACES[row.weights],
    ]
