from __future__ import annotations

import csv
import io
import math

from cnn_tl.tracking.flat_rows import by_step, csv_text, flatten, numbers


def test_nested_mappings_get_dotted_names_and_lists_become_text() -> None:
    tree = {"a": 1, "b": {"c": None, "d": {"e": "x"}}, "f": [1, {"g": 2}], "empty": {}}
    assert flatten(tree) == {"a": 1, "b.c": None, "b.d.e": "x", "f": '[1, {"g": 2}]'}


def test_csv_has_every_column_once_and_reads_back() -> None:
    rows = [
        {"epoch": 1, "loss": 0.1 + 0.2, "note": 'a "quoted", one'},
        {"epoch": 2, "lr": 1e-5, "facts": {"é": "two\nlines"}},
    ]
    text = csv_text(rows)
    assert text.startswith("epoch,loss,note,lr,facts.é\r\n")
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert float(first["loss"]) == 0.1 + 0.2
    assert first["note"] == 'a "quoted", one'
    assert (first["lr"], second["lr"]) == ("", "1e-05")
    assert second["facts.é"] == "two\nlines"
    assert csv_text([]) == ""


def test_numbers_are_what_can_be_drawn() -> None:
    row = {"step": 3, "epoch": 1, "loss": math.nan, "yes": True, "kind": "lbfgs", "head": {"seconds": 0.5}}
    assert numbers(row) == {"epoch": 1.0, "head.seconds": 0.5}


def test_rows_without_a_step_have_their_epoch_or_their_place() -> None:
    rows = [{"step": 10, "epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    assert by_step(rows) == {10: rows[0], 2: rows[1], 3: rows[2]}
    assert by_step([{"val_accuracy": 1.0}]) == {0: {"val_accuracy": 1.0}}
