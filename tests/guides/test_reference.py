"""The guide `reference` is what `--help` and the recipe say today."""

from __future__ import annotations

import pytest

from cnn_tl import guides
from cnn_tl.cli import reference
from cnn_tl.recipe import KEYS


def test_it_is_what_is_written_now() -> None:
    if guides.read("reference").text != reference.text():
        pytest.fail("a help text or a recipe's description has changed: run python -m cnn_tl.cli.reference")


def test_it_has_every_key_and_what_a_mode_fills_in() -> None:
    text = guides.read("reference").text
    for key in KEYS:
        assert f"| `{key}` |" in text
    assert "| `train.epochs` |  | 5 | 3 | 3 | 30 |" in text
    assert "| `model.image_size` | Side of the input" in text
    assert "[whole number, 8 to 4,096]" in text
    assert "[number, above 0, at most 0.5; default: 0.2]" in text


def test_it_has_every_command_with_its_options() -> None:
    text = guides.read("reference").text
    for heading in ("cnn-tl", "cnn-tl train", "cnn-tl recipes validate", "cnn-tl cache prune", "cnn-tl guide"):
        assert f"\n### {heading}\n" in text
    assert "| `--lr RATE\\|auto` | " in text
    assert "`cnn-tl predict [OPTIONS] RUN|BUNDLE|ONNX IMAGES...`" in text
    assert text.count("`-h, --help`") == 1
