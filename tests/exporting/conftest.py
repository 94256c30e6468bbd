"""A tiny bundle with a random classifier, and a run folder around it, for all that is exported.

Tests that want a bundle with a graph, which is exported without torch, take `graph_run`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from cnn_tl.core import files
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.folders.scan import scan
from cnn_tl.networks import bundle
from cnn_tl.networks.graph import trace

CLASSES = ("blue", "red")
SIDE = 48


@pytest.fixture(scope="module")
def architecture() -> str:
    """A module that wants another network has a fixture of this name."""
    return "test_resnet"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory, architecture: str) -> Path:
    """Write a bundle of a tiny network whose random classifier tells images apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(architecture, num_classes=len(CLASSES))
        torch.nn.init.normal_(model.get_classifier().weight)
    spec = Preprocessing.from_pretrained_cfg(model.pretrained_cfg, SIDE)
    folder = tmp_path_factory.mktemp("bundle") / "model"
    bundle.save_model(folder, model, classes=CLASSES, preprocessing=spec, facts={})
    return folder


@pytest.fixture(scope="session")
def graph() -> bytes:
    """Return the graph of the tiny network, for any weights."""
    model = timm.create_model("test_resnet")
    return trace.graph_of(model, Preprocessing.from_pretrained_cfg(model.pretrained_cfg, SIDE))


@pytest.fixture(scope="module")
def graph_folder(model_folder: Path, graph: bytes) -> Path:
    """Write the tiny bundle once more, with a graph."""
    trained = bundle.load(model_folder)
    folder = model_folder.with_name("with graph") / "model"
    options: dict[str, Any] = {"classes": CLASSES, "preprocessing": trained.preprocessing, "facts": {}}
    bundle.save_model(folder, trained.model, **options, graph=graph, classifier="fc")
    return folder


@pytest.fixture
def graph_run(run: Path, graph_folder: Path) -> Path:
    """Return `run` with that bundle."""
    shutil.rmtree(run / "model")
    shutil.copytree(graph_folder, run / "model")
    return run


@pytest.fixture
def run(tmp_path: Path, model_folder: Path, make_images: Callable[..., Path]) -> Path:
    """Make a run folder with that bundle and a manifest of 10 validation images."""
    data = make_images(tmp_path / "data", {"blue": 10, "red": 10})
    run = tmp_path / "run"
    shutil.copytree(model_folder, run / "model")
    files.write_json(run / "manifest.json", scan(data, seed=0, val_fraction=0.5).to_json())
    return run
