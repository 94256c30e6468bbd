"""Which heat maps are served: Grad-CAM as explain computes it, and occlusion through nothing but logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.explaining import faithfulness, layers
from cnn_tl.explaining import model as subject
from cnn_tl.explaining.methods import cam, covering, occlusion
from cnn_tl.inference.classifier import Classifier
from cnn_tl.serving import heat_map as heat

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
def watched(monkeypatch: pytest.MonkeyPatch) -> subject.Subject:
    made = subject.Subject("small", Small().eval().requires_grad_(False), tuple("abc"), SPEC, torch.device("cpu"))
    monkeypatch.setattr(subject, "load", lambda source, device: made)
    return made


def logits_of(watched: subject.Subject) -> Classifier:
    def logits(pixels_NHWC: np.ndarray) -> np.ndarray:
        return watched.logits(torch.cat([watched.to_input(one) for one in pixels_NHWC])).numpy()

    return Classifier(watched.classes, SPEC, logits)


def test_a_bundle_is_explained_by_grad_cam(watched: subject.Subject) -> None:
    method, heat_map = heat.load(Path("run"), logits_of(watched), "cpu")
    layer = layers.find(watched.model, watched.blank())
    expected = faithfulness.enlarge(cam.heat_map("gradcam", watched, layer, watched.to_input(PIXELS), 1), 32, 32)
    assert method == "gradcam"
    assert np.array_equal(heat_map(PIXELS, 1), expected.numpy())


def test_an_export_is_explained_by_occlusion_which_is_that_of_torch(watched: subject.Subject) -> None:
    method, heat_map = heat.load(Path("model.onnx"), logits_of(watched), "cpu")
    assert method == "occlusion"
    for index in range(3):
        expected = occlusion.heat_map(watched, watched.to_input(PIXELS), index).numpy()
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(heat_map(PIXELS, index), expected, atol=1e-5)


def test_what_sees_in_tokens_is_explained_by_occlusion(
    watched: subject.Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn_tl.core.errors import UsageError

    def no_maps(*_: object) -> None:
        raise UsageError("tokens")

    monkeypatch.setattr(layers, "find", no_maps)
    method, heat_map = heat.load(Path("run"), logits_of(watched), "cpu")
    assert method == "occlusion"
    np.testing.assert_allclose(
        heat_map(PIXELS, 0), covering.heat_map(logits_of(watched).logits, PIXELS, 0, SPEC), atol=1e-5
    )
