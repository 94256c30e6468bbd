"""Answers in files: what CSV says of classes whose names hold the mark between the classes of a set."""

from __future__ import annotations

import csv
import io
import re

from cnn_tl.inference.classifier import Answer
from cnn_tl.inference.writers import Columns, write_csv


def test_a_set_can_be_taken_apart_whatever_its_classes_are_called() -> None:
    classes = ("cat", "a|b", "c\\", "\\|")
    stream = io.StringIO()
    write_csv([Answer("x", "cat", 0.5, (("cat", 0.5),), None, "answered", classes, 0.4)], stream, Columns(classes, 1))
    stream.seek(0)
    (row,) = csv.DictReader(stream)
    assert row["set"] == r"cat|a\|b|c\\|\\\|"
    members = re.findall(r"(?:[^|\\]|\\.)+", row["set"])
    assert tuple(re.sub(r"\\(.)", r"\1", member) for member in members) == classes
