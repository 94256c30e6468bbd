"""Images without files, and what has become of them on a device, for tests of `training/sources`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from whole_runs import StopAfter

from cnn_tl.cache.multi_shape import MemoryBudget
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Run
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.sources.staging import Loaded, Pixels


def unpacked(loaded: Loaded) -> list[Pixels]:
    """Return the images of a batch, by what the device knows of them."""
    batch = loaded.batch
    places = torch.stack([batch.starts, batch.heights, batch.widths], 1).tolist()
    assert [(height, width) for _, height, width in places] == loaded.sizes
    pixels = batch.pixels.cpu().numpy()
    return [pixels[start : start + height * width].reshape(height, width, 3) for start, height, width in places]


def same(found: list[Pixels], expected: list[Pixels]) -> bool:
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


class Store:
    """Images of random sizes; `reads` counts how often each way to them was used."""

    def __init__(self, count: int, memory: int = 10**9, expected: float = 1.0) -> None:
        draw = np.random.default_rng(0)
        sizes = draw.integers(1, 40, (count, 2)).tolist()
        self.images = [record(number) for number in range(count)]
        self.pixels = {
            image.sha256: draw.integers(0, 256, (*size, 3), dtype=np.uint8)
            for image, size in zip(self.images, sizes, strict=True)
        }
        self.memory, self.are_kept, self.absent = MemoryBudget(memory), True, 0
        self.reads = {"source": 0, "decoded_source": 0}
        self._expected = expected

    def expected_source_bytes(self, images: list[ImageRecord]) -> int:
        return int(self._expected * sum(self.pixels[image.sha256].nbytes for image in images))

    def lacking_sources(self, images: list[ImageRecord]) -> list[ImageRecord]:
        return images[: self.absent]

    def source(self, image: ImageRecord) -> Pixels:
        self.reads["source"] += 1
        return self.pixels[image.sha256]

    def decoded_source(self, image: ImageRecord) -> Pixels:
        self.reads["decoded_source"] += 1
        return self.pixels[image.sha256]


def record(number: int) -> ImageRecord:
    return ImageRecord(f"{number}.png", 0, "train", 1, 1, f"{number:064x}")


def dataset(store: Any, tier: str = "auto") -> tuple[Any, StopAfter]:
    recipe = Recipe.model_validate({"mode": "finetune", "run": {"sources": tier, "workers": 2}}).resolve()
    observer = StopAfter("", 0)
    return SimpleNamespace(run=Run(recipe, RunFolder(Path("run")), observer), images=store), observer
