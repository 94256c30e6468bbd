"""A network's layer table, on a terminal and for machines."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnn_tl.cli.terminal import console

if TYPE_CHECKING:
    from cnn_tl.anatomy.table import Row, Table

WIDE = 120
"""From this width in columns on, all columns are shown."""


def show(table: Table) -> None:
    """Print the columns that fit the terminal, the totals, and a legend."""
    channels, height, width = table.input
    share = f"{table.trainable:,} of {table.parameters:,} parameters train"
    console.say(f"{table.model}, {channels} x {height} x {width}, mode {table.training.mode}: {share}")
    wide = console.width() >= WIDE
    columns = ["layer", *(["kind"] if wide else []), "window", "output", "sees>", "parameters>", "mult-adds>"]
    columns += [*(["memory>", "stage"] if wide else []), "trains"]
    cells = []
    for row in table.rows:
        extra = [_size(row.activation_bytes), row.stage] if wide else []
        cells.append([
            row.name, *([_kind(row)] if wide else []), _window(row), console.times(row.output or ()), _field(row),
            f"{row.parameters:,}" if row.parameters else "", _short(row.multiply_adds), *extra, TRAINS[row.state],
        ])  # fmt: skip
    extra = [_size(table.activation_bytes), ""] if wide else []
    total = ["total", *([""] if wide else []), "", "", "", f"{table.parameters:,}", _short(table.multiply_adds)]
    console.show(console.table(columns, [*cells, [*total, *extra, ""]], dense=True))
    _explain(table)


def _explain(table: Table) -> None:
    """Explain the symbols in the table."""
    if any(row.gated for row in table.rows):
        console.note("* without gates (squeeze-excite and the like), through which the whole image has an influence")
    if any(row.receptive_field is None and row.output is not None for row in table.rows):
        console.note("- no fixed receptive field: global pooling, attention, or mixing of positions")
    if any(row.state == "later" for row in table.rows):
        console.note("later: in the second phase, after the head")


TRAINS = {"frozen": "no", "trains": "yes", "later": "later", "partly": "partly", "": ""}


def _window(row: Row) -> str:
    """Write a window as `3x3 s2 p1`: `dw` is depthwise, `g32` grouped, `p0+1` padding that differs between the ends.

    `ceil` means that the size is rounded up, if that makes a difference.
    """
    if row.window is None:
        return ""
    rows, columns = row.window.rows, row.window.columns
    words = [f"{rows.kernel}x{columns.kernel}", f"s{console.square((rows.stride, columns.stride))}"]
    if row.padding_mode:
        first, second = (f"{s.before}" if s.before == s.after else f"{s.before}+{s.after}" for s in (rows, columns))
        words.append(f"p{first}" if first == second else f"p{first}x{second}")
        words += [row.padding_mode] if row.padding_mode not in ("zeros", "-inf") else []
    if rows.ceil and (rows.left_over or columns.left_over):
        words.append("ceil")
    if (rows.dilation, columns.dilation) != (1, 1):
        words.append(f"d{console.square((rows.dilation, columns.dilation))}")
    if row.window.groups > 1:
        depthwise = row.input is not None and row.window.groups == row.input[0]
        words.append("dw" if depthwise else f"g{row.window.groups}")
    return " ".join(words)


def _kind(row: Row) -> str:
    return f"{row.kind}, {row.calls} times" if row.calls > 1 else row.kind


def _field(row: Row) -> str:
    if row.output is None:
        return ""
    return "-" if row.receptive_field is None else console.square(row.receptive_field) + "*" * row.gated


def _short(count: int) -> str:
    if not count:
        return ""
    for size, letter, digits in ((1e12, "T", 2), (1e9, "G", 2), (1e6, "M", 1), (1e3, "k", 1)):
        if count >= size:
            return f"{count / size:,.{digits}f} {letter}"
    return str(count)


def _size(count: int) -> str:
    return f"{count / 1e6:,.2f} MB" if count else ""


def print_json(table: Table) -> None:
    """Print the table as JSON."""
    from cnn_tl.anatomy.table import as_dict

    training = table.training
    policy = training.policy if isinstance(training.policy, str) else list(training.policy)
    console.print_json({
        "model": table.model,
        "input": list(table.input),
        "mode": training.mode,
        "freeze": policy,
        "layers": [as_dict(row) for row in table.rows],
        "total": {
            "parameters": table.parameters,
            "trainable": table.trainable,
            "multiply_adds": table.multiply_adds,
            "activation_bytes": table.activation_bytes,
        },
    })  # fmt: skip


def print_csv(table: Table) -> None:
    """Print the rows as CSV, without the totals."""
    from cnn_tl.anatomy.table import as_dict

    write_csv([as_dict(row) for row in table.rows])


def write_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys to stdout; lists become `3x3`, pairs in them `0+1`."""
    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    if isinstance(value, list):
        return "x".join("+".join(map(str, one)) if isinstance(one, list) else f"{one:g}" for one in value)
    return int(value) if isinstance(value, bool) else value


WRITERS: dict[str, Callable[[Table], None]] = {"table": show, "json": print_json, "csv": print_csv}
"""Output format -> the function that prints a table in it."""
