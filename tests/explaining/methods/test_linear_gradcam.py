"""Grad-CAM without gradients is that of torchcam; where it would not be, there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.explaining import target_layers
from cnn_tl.explaining.methods.heat_maps import class_activation_map
from cnn_tl.explaining.methods.linear_gradcam import LinearGradCam
from cnn_tl.explaining.model import ExplainedModel
from cnn_tl.networks import bundle
from cnn_tl.networks.bundle import Stored
from cnn_tl.networks.graph import trace

CLASSES = ("ant", "bee", "cat")


def stored(folder: Path, name: str, size: int | None = None) -> tuple[Stored, nn.Module]:
    """Return a bundle of a timm model with random weights; of the default one with the graph that ships."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=len(CLASSES)).eval()
        nn.init.normal_(model.get_classifier().weight)
    spec = Preprocessing.from_pretrained_cfg(model.pretrained_cfg, size)
    graph = None if name == "tf_efficientnet_lite0" else trace.graph_of(model, spec)
    about = {"classes": CLASSES, "preprocessing": spec, "facts": {}}
    bundle.save_model(folder / "model", model, graph=graph, classifier=model.pretrained_cfg["classifier"], **about)
    return bundle.read(folder / "model"), model


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_resnet", "tiny_for_tests"])
def test_it_is_that_of_torchcam(tmp_path: Path, name: str) -> None:
    source, network = stored(tmp_path, name)
    found = LinearGradCam.of(source)
    assert found is not None
    spec = source.preprocessing
    model = ExplainedModel(name, network.requires_grad_(False), CLASSES, spec, torch.device("cpu"))
    layer = target_layers.find(network, model.grey_input())
    shown = 0
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
        for index in range(len(CLASSES)):
            expected_hw = class_activation_map("gradcam", model, layer, model.to_input(pixels), index).numpy()
            map_hw = found(pixels, index)
            np.testing.assert_allclose(map_hw, expected_hw, atol=1e-4 * max(expected_hw.max(), 1e-3))
            if expected_hw.max() > 0:
                shown += 1
                assert np.corrcoef(map_hw.ravel(), expected_hw.ravel())[0, 1] > 0.9999
    assert shown >= 2


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_networks_that_end_otherwise_have_none(tmp_path: Path, name: str) -> None:
    """A transformer reads one token; ConvNeXt normalises what it has pooled, so that the head is not linear in it."""
    assert LinearGradCam.of(stored(tmp_path, name)[0]) is None


def test_neither_has_another_head_or_a_bundle_without_graph(tmp_path: Path) -> None:
    source, _ = stored(tmp_path, "tiny_for_tests")
    assert LinearGradCam.of(replace(source, head={"kind": "mlp"})) is None
    assert LinearGradCam.of(replace(source, graph=None)) is None


def test_a_map_of_one_place_locates_nothing(tmp_path: Path) -> None:
    source, _ = stored(tmp_path, "tiny_for_tests", size=8)
    assert LinearGradCam.of(source) is None
