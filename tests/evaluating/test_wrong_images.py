"""The table of wrong images: which, in what order, and read back by a CSV reader whatever the names are."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest

from cnn_tl.evaluating.wrong_images import COLUMNS, wrong_images_csv
from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits


def answers_of(classes: tuple[str, str], files: list[str], odds: list[float], labels: list[int]) -> LabelledAnswers:
    """Return answers where class 0 is `odds` times as probable as class 1."""
    logits_NK = np.stack([np.log(odds), np.zeros(len(odds))], axis=1)
    digests = [f"{k:064x}" for k in range(len(files))]
    return answers_from_logits(logits_NK, np.array(labels, np.int64), classes, files, digests)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_wrong_ones_the_most_confident_first() -> None:
    answers = answers_of(("a", "b"), ["w", "x", "y", "z"], [3.0, 9.0, 0.25, 9.0], [1, 1, 0, 0])
    text = wrong_images_csv(answers)
    assert text.splitlines()[0] == ",".join(COLUMNS)
    found = rows_of(text)
    assert [(row["file"], row["label"], row["predicted"]) for row in found] == [
        ("x", "b", "a"), ("y", "a", "b"), ("w", "b", "a")
    ]  # fmt: skip
    assert [(row["probability"], row["probability_of_label"]) for row in found] == [
        ("0.900000", "0.100000"), ("0.800000", "0.200000"), ("0.750000", "0.250000")
    ]  # fmt: skip
    assert [int(row["sha256"], 16) for row in found] == [1, 2, 0]


def test_no_wrong_image_leaves_the_header() -> None:
    assert wrong_images_csv(answers_of(("a", "b"), ["x"], [9.0], [0])) == ",".join(COLUMNS) + "\r\n"


def test_an_unknown_probability_is_an_empty_cell() -> None:
    answers = answers_of(("a", "b"), ["x"], [9.0], [1])
    [row] = rows_of(wrong_images_csv(replace(answers, losses=np.array([math.nan]))))
    assert row["probability_of_label"] == ""


@pytest.mark.parametrize("name", ['a "b", c', "line\nbreak", "<script>", "\u202eabc", "\udcff", "x;=1", " =1"])
def test_names_come_back_as_they_are(name: str) -> None:
    [row] = rows_of(wrong_images_csv(answers_of((name, "b"), [f"{name}/1.jpg"], [0.5], [0])))
    assert (row["file"], row["label"], row["predicted"]) == (f"{name}/1.jpg", name, "b")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_no_name(name: str) -> None:
    [row] = rows_of(wrong_images_csv(answers_of((name, "b"), [f"{name}/1.jpg"], [0.5], [0])))
    assert (row["file"], row["label"]) == (f"'{name}/1.jpg", f"'{name}")
    [row] = rows_of(wrong_images_csv(answers_of(("a", name), ["a/1.jpg"], [0.5], [0])))
    assert row["predicted"] == f"'{name}"
