"""Epochs leak nothing: neither memory nor open files grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cnn_tl.core.progress import Observer
from cnn_tl.recipe import Recipe
from cnn_tl.training.run import train

STATUS = Path("/proc/self/status")
DESCRIPTORS = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="the system does not show what a process holds")


BEING_WRITTEN = 2
"""Files that the thread which writes checkpoints may have open at the end of an epoch: a file and its folder."""


class Scales(Observer):
    """Records resident memory in KiB and the number of open files after each epoch."""

    def __init__(self) -> None:
        self.memory: list[int] = []
        self.open_files: list[int] = []

    def epoch(self, row: Mapping[str, float]) -> None:
        [line] = [line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:")]
        self.memory.append(int(line.split()[1]))
        self.open_files.append(sum(1 for _ in DESCRIPTORS.iterdir()))


@pytest.mark.parametrize(
    ("epochs", "settled"),
    [(8, 3), pytest.param(200, 20, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])],
    ids=["short", "long"],
)
def test_nothing_grows_with_the_epochs(
    make_images: Callable[..., Path], tiny_weights: Path, tmp_path: Path, epochs: int, settled: int
) -> None:
    data = make_images(tmp_path / "data", {"ash": 20, "birch": 15, "cedar": 10})
    tree = {
        "mode": "finetune",
        "data": {"path": str(data)},
        "model": {"name": "test_resnet", "image_size": 64, "weights": str(tiny_weights)},
        "train": {"epochs": epochs, "batch_size": 8, "ema": 0.9},
        "run": {"device": "cpu", "workers": 2},
    }
    scales = Scales()
    train(Recipe.model_validate(tree), tmp_path / "run", observer=scales)
    assert len(scales.memory) == epochs
    assert max(scales.open_files[settled:]) <= scales.open_files[settled] + BEING_WRITTEN
    if epochs > 100:  # a few epochs say nothing: the allocator is still filling its pools
        assert max(scales.memory[settled:]) < 1.02 * scales.memory[settled], scales.memory[settled::20]
