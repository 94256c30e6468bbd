"""Which heat map a model gets: Grad-CAM as explain computes it, and occlusion through nothing but logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from traced import tiny

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.explaining import faithfulness, one_heat_map, target_layers
from cnn_tl.explaining import model as models
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.explaining.methods.linear_gradcam import LinearGradCam
from cnn_tl.explaining.model import ExplainedModel
from cnn_tl.inference import loading
from cnn_tl.inference.classifier import Classifier
from cnn_tl.networks import bundle

SPEC = Preprocessing(32, 32, "bilinear", 1.0, "center", (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))  # its mean is a colour: 102
PIXELS = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act, self.fc = nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(self.conv(x_NCHW)).mean((2, 3)))


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> ExplainedModel:
    made = ExplainedModel("small", Small().eval().requires_grad_(False), tuple("abc"), SPEC, torch.device("cpu"))
    monkeypatch.setattr(models, "load", lambda source, device: made)
    return made


def logits_of(explained: ExplainedModel) -> Classifier:
    def logits(pixels_NHWC: np.ndarray) -> np.ndarray:
        return explained.logits(torch.cat([explained.to_input(one) for one in pixels_NHWC])).numpy()

    return Classifier(explained.classes, SPEC, logits)


def test_a_bundle_is_explained_by_grad_cam(explained: ExplainedModel) -> None:
    method, heat_map = one_heat_map.load(Path("run"), logits_of(explained), "cpu")
    layer = target_layers.find(explained.network, explained.grey_input())
    small = heat_maps.class_activation_map("gradcam", explained, layer, explained.to_input(PIXELS), 1)
    assert method == "gradcam"
    assert np.array_equal(heat_map(PIXELS, 1), faithfulness.enlarge(small.numpy(), 32, 32))


def test_an_export_is_explained_by_occlusion_which_is_that_of_torch(explained: ExplainedModel) -> None:
    method, heat_map = one_heat_map.load(Path("model.onnx"), logits_of(explained), "cpu")
    assert method == "occlusion"
    for index in range(3):
        answering = explained.answering
        expected = heat_maps.occlusion_map(answering.logits, answering.to_input(PIXELS), index)
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(heat_map(PIXELS, index), expected, atol=1e-5)


def test_what_sees_in_tokens_is_explained_by_occlusion(
    explained: ExplainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn_tl.core.errors import UsageError

    def no_maps(*_: object) -> None:
        raise UsageError("tokens")

    monkeypatch.setattr(target_layers, "find", no_maps)
    method, heat_map = one_heat_map.load(Path("run"), logits_of(explained), "cpu")
    assert method == "occlusion"
    np.testing.assert_allclose(
        heat_map(PIXELS, 0), heat_maps.occlusion_map_of_pixels(logits_of(explained).logits, PIXELS, 0, SPEC), atol=1e-5
    )


def test_a_bundle_in_onnxruntime_is_explained_by_grad_cam_in_the_size_of_the_image(tmp_path: Path) -> None:
    network = tiny()
    about = {"classes": tuple(map(str, range(10))), "preprocessing": network.spec, "facts": {}}
    model = timm.create_model("tiny_for_tests")
    bundle.save_model(tmp_path / "model", model, graph=network.graph, classifier="fc", **about)
    [pixels] = network.pixels(1)
    method, heat_map = one_heat_map.load(tmp_path, loading.load(tmp_path, "cpu"), "cpu")
    gradcam = LinearGradCam.of(bundle.read(tmp_path))
    assert (method, gradcam is None) == ("gradcam", False)
    assert np.array_equal(heat_map(pixels, 3), faithfulness.enlarge(gradcam(pixels, 3), 24, 24))
