"""The preprocessing inside an export against the one that every command has: `transforms.resize_and_crop`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core import telemetry
from cnn_tl.core.errors import UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views import transforms
from cnn_tl.exporting import onnx_graph, preprocessing_graph
from cnn_tl.exporting.formats import onnx as onnx_format
from cnn_tl.exporting.options import Options
from cnn_tl.exporting.tracing import traced
from cnn_tl.networks import bundle, onnx_model
from cnn_tl.networks.bundle import Bundle
from cnn_tl.networks.onnx_model import OnnxModel

onnxruntime = telemetry.onnxruntime()

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(61, 83), (130, 90), (300, 400), (9, 400), (400, 9), (32, 32), (4, 4)]
Mode = Literal["center", "squash", "border"]


def photo(height: int, width: int) -> NDArray[np.uint8]:
    """Return a smooth image with some noise on it, as photographs are."""
    random = np.random.default_rng(height * 1000 + width)
    coarse = random.integers(0, 256, (5, 5, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return np.clip(smooth + random.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


def run(model: onnx.ModelProto, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": image[None]})[0][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_it_does_what_every_command_does(
    mode: Mode, height: int, width: int, crop_pct: float, interpolation: str
) -> None:
    """Where a strip is squashed the order of the two directions shows: what overshoots is clipped in between."""
    spec = Preprocessing(height, width, interpolation, crop_pct, mode, MEAN, STD)  # type: ignore[arg-type]
    model = preprocessing_graph.preparing_graph(spec, opset=18, ir_version=10)
    differing, total = 0, 0
    for size in SIZES:
        image = photo(*size)
        difference = run(model, image).astype(int) - transforms.resize_and_crop(Image.fromarray(image), spec)
        squashed_strip = mode == "squash" and max(size) > 8 * min(size)
        assert np.abs(difference).max() <= (16 if squashed_strip else 2), size
        differing, total = differing + int((difference != 0).sum()), total + difference.size
    assert differing / total < 0.1


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos"])
def test_other_filters_are_refused(interpolation: str) -> None:
    spec = Preprocessing(32, 32, interpolation, 1.0, "center", MEAN, STD)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"Pillow's {interpolation}; use --preprocess none"):
        preprocessing_graph.preparing_graph(spec, opset=18, ir_version=10)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=3)
        torch.nn.init.normal_(model.get_classifier().weight)
    spec = replace(Preprocessing.from_pretrained_cfg(model.pretrained_cfg, 48), crop_pct=0.9)
    folder = tmp_path_factory.mktemp("bundle") / "model"
    bundle.save_model(folder, model, classes=["a", "b", "c"], preprocessing=spec, facts={})
    return bundle.load(folder)


@pytest.fixture(scope="module")
def network(trained: Bundle) -> onnx.ModelProto:
    return traced(trained)


def test_all_outputs_of_whole_and_prepared_images(trained: Bundle, tmp_path: Path) -> None:
    model = onnx_format.write(trained, tmp_path / "m.onnx", Options(outputs=("features", "logits", "probabilities")))
    spec = trained.preprocessing
    whole = np.stack([photo(80, 60), photo(80, 60)[::-1]])
    prepared = np.stack([transforms.resize_and_crop(Image.fromarray(one), spec) for one in whole])
    x_nchw = torch.from_numpy(transforms.normalise(prepared, spec))
    with torch.inference_mode():
        features = trained.model.forward_head(trained.model.forward_features(x_nchw), pre_logits=True)  # type: ignore[operator]
        logits = trained.model(x_nchw)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": prepared, "prepared": np.array(True)})
    for one, expected in zip(found, (features, logits, logits.softmax(1)), strict=True):
        np.testing.assert_allclose(one, expected.numpy(), atol=1e-4, rtol=1e-4)
    assert not trained.model.get_classifier()._forward_pre_hooks  # type: ignore[operator]
    names = [output.name for output in session.get_outputs()]
    assert names == ["features", "logits", "probabilities"]
    np.testing.assert_allclose(model(prepared), logits.numpy(), atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(model.whole(whole), logits.numpy(), atol=2e-2)
    again = session.run(["logits"], {"images": whole})[0]  # a program that knows of no second input
    np.testing.assert_array_equal(again, model.whole(whole))


def test_the_plain_network(network: onnx.ModelProto, trained: Bundle, tmp_path: Path) -> None:
    plain = onnx_graph.with_outputs(network, ("logits",))
    meta = onnx_model.metadata(trained.classes, trained.preprocessing, "test_resnet", 18)
    onnx.helper.set_model_props(plain, meta)
    onnx_format.save(plain, tmp_path / "m.onnx")
    model = OnnxModel.open(tmp_path / "m.onnx")
    assert not model.inside
    x_nchw = np.random.default_rng(0).normal(size=(3, 3, 48, 48)).astype(np.float32)
    with torch.inference_mode():
        expected = trained.model(torch.from_numpy(x_nchw)).numpy()
    np.testing.assert_allclose(model(x_nchw), expected, atol=1e-4, rtol=1e-4)
