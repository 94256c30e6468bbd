"""`cnn-tl models`: search the models that `--model` takes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cnn_tl.cli import console
from cnn_tl.errors import UsageError

PLACES = {"package": "here (package)", "cache": "here (cache)", "download": "download", "none": "none"}


def models(
    query: Annotated[
        str | None, typer.Argument(help="Part of a name, or a glob such as 'vit_tiny*'.", show_default=False)
    ] = None,
    here: Annotated[bool, typer.Option("--here", help="Only models with weights on this machine.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")] = False,
) -> None:
    """List and search models: parameters, input size, and whether their weights are here."""
    from cnn_tl.networks import catalog, weights

    names = catalog.matching(query, here_only=here)
    if query and not names:
        if here and (others := len(catalog.matching(query))):
            raise UsageError(f"none of the models that match {query!r} ({others}) is here; leave out --here")
        raise UsageError(f"no model matches {query!r}{weights.closest(query, catalog.matching())}")
    rows = [catalog.describe(name) for name in names[:limit]]
    if as_json:
        console.print_json([{**asdict(row), "here": row.here} for row in rows])
        return
    cells = [(r.name, f"{r.parameters / 1e6:.1f} M", f"{r.input_size} px", PLACES[r.weights]) for r in rows]
    console.show(console.table(["model", "parameters>", "input>", "weights"], cells))
    if len(names) > limit:
        console.note(f"{len(names) - limit} more match; narrow the query or raise --limit")
