"""Each tier gives the same steps, to the bit, and takes no more memory than it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from whole_runs import assert_same_weights

from cnn_tl.core.progress import Observer
from cnn_tl.recipe import Recipe
from cnn_tl.training.run import train
from cnn_tl.training.sources import sources, tiers

TIERS = list(tiers.TIERS)
Make = Callable[..., Recipe]


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def data(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Write images of several sizes, one of them twice."""
    folder = make_images(tmp_path / "data", {"ash": 10, "birch": 15}, side=50)
    for number in range(4):
        image = Image.effect_noise((300 + 10 * number, 200), 60).convert("RGB")
        image.save(folder / "ash" / f"{number}.png")
        image.resize((20, 30)).save(folder / "birch" / f"{number}.png")
    (folder / "ash" / "again.png").write_bytes((folder / "ash" / "0.png").read_bytes())
    return folder


@pytest.mark.parametrize("tier", TIERS)
def test_x(recipe: Make, tmp_path: Path, tier: str) -> None:
    notes = Notes()
    train(recipe("finetune", run={"sources": tier}), tmp_path / tier, observer=notes)
    train(recipe("finetune"), tmp_path / "threads")
    print(notes.notes)
    assert_same_weights(tmp_path / tier, tmp_path / "threads")
