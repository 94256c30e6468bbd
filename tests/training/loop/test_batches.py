"""Which view of an image a step sees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cnn_tl.data.manifest import ImageRecord
from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop.batches import Batches
from cnn_tl.training.run_folder import RunFolder


def batches_of(images: list[ImageRecord], views: int | str, seed: int = 0) -> Batches:
    tree: dict[str, Any] = {
        "mode": "finetune", "seed": seed, "model": {"freeze": "head"}, "features": {"views": views},
        "train": {"epochs": 9, "batch_size": 2},
    }  # fmt: skip
    recipe = Recipe.model_validate(tree).resolve()
    run = Run(recipe, RunFolder(Path("run")))
    dataset = SimpleNamespace(run=run, manifest=SimpleNamespace(of=lambda split: images))
    return Batches(cast(Dataset, dataset), cast(LazyNetwork, None))


def image(name: str, content: str) -> ImageRecord:
    return ImageRecord(path=name, label=0, split="train", sha256=content * 64, bytes=1, mtime_ns=1)


IMAGES = [image("ash/1.png", "1"), image("ash/2.png", "2"), image("elm/1.png", "1")]


def test_a_fresh_view_is_another_for_each_image_epoch_repeat_and_seed() -> None:
    """Also for two images of the same content: both would else be cropped alike, epoch after epoch."""
    seeds = {
        batches_of(IMAGES, "fresh", seed)._seed(one, epoch, repeat)
        for seed in (0, 1)
        for one in IMAGES
        for epoch in (1, 2, 3)
        for repeat in (0, 1)
    }
    assert None not in seeds
    assert len(seeds) == 2 * 3 * 3 * 2
    assert batches_of(IMAGES, "fresh")._seed(IMAGES[0], 2) == batches_of(IMAGES[::-1], "fresh")._seed(IMAGES[0], 2)


@pytest.mark.parametrize("views", [1, 3])
def test_kept_views_come_round_and_the_first_is_the_plain_one(views: int) -> None:
    """They are named by the content of an image, so that the cache finds them wherever it lies."""
    batches = batches_of(IMAGES, views)
    seeds = [[batches._seed(one, epoch) for one in IMAGES] for epoch in range(1, 8)]
    assert seeds[0] == [None] * 3
    assert seeds == [seeds[epoch % views] for epoch in range(7)]
    for first, second, same_as_first in seeds[1:views]:
        assert first == same_as_first != second
    assert len({seed for row in seeds[1:views] for seed in row}) == 2 * (views - 1)
