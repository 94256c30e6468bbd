"""The device computes the images without augmentation that threads would, but for rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.folders.scan import scan
from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset, Selection
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.sources.device_views import open_views

SPEC = Preprocessing(64, 64, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def made(folder: Path, sources: str) -> Dataset:
    recipe = Recipe.model_validate({"mode": "finetune", "run": {"sources": sources, "device": "cpu"}}).resolve()
    manifest = scan(folder, val_fraction=0.2, seed=0)
    return Dataset(Run(recipe, RunFolder(folder.parent / "run")), SPEC, Selection(manifest))


@pytest.fixture
def data(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    folder = make_images(tmp_path / "data", {"ash": 8, "birch": 8}, side=90)
    for number, size in enumerate([(300, 200), (200, 310), (20, 500), (64, 64), (30, 20)]):
        Image.effect_noise(size, 60).convert("RGB").save(folder / "ash" / f"{number}.png")
    return folder


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("tier", ["device", "decode"])
def test_images_without_augmentation(data: Path, tier: str, device: str) -> None:
    dataset = made(data, tier)
    dataset.check_images()
    views = open_views(dataset, SPEC, torch.device(device))
    assert views is not None
    assert views.has_unvaried
    images = dataset.manifest.of("train")
    groups = [images[:5], images[5:]]
    found = torch.cat(list(views.unvaried(groups))).cpu().numpy()
    expected = np.stack([dataset.images.unvaried(image) for image in images])
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 3
    assert difference.mean(axis=(1, 2, 3)).max() < 0.3
    assert views.reads is not None
    assert views.reads.tier == tier


def test_threads_draw_the_views_of_a_cpu(data: Path) -> None:
    assert open_views(made(data, "auto"), SPEC, torch.device("cpu")) is None


def test_an_image_with_a_border_is_no_part_of_its_source(data: Path) -> None:
    views = open_views(made(data, "device"), replace(SPEC, crop_mode="border"), torch.device("cpu"))
    assert views is not None
    assert not views.has_unvaried
    assert views.reads is None, "nothing has been loaded"
