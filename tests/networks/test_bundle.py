"""A bundle's classes are in the order of its logits, whatever their names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import bundle

SPEC = Preprocessing(32, 32, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize("classes", [("1", "2", "10"), ("b", "a", "c"), ("Zebra", "ant", "Ömer")], ids=str)
def test_the_classes_keep_their_order(tmp_path: Path, classes: tuple[str, ...]) -> None:
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model("test_resnet", num_classes=3)
    bundle.save_model(tmp_path / "model", model, classes=classes, preprocessing=SPEC, facts={})
    assert bundle.load(tmp_path / "model").classes == classes
    config = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))
    assert tuple(config["label_names"]) == classes
