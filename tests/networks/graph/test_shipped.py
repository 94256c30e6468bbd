"""What ships of a default backbone is what torch makes of it, with the weights that are in its package."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from traced import torch_features

from cnn_tl.core.errors import ResourceError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.features.onnx_engine import OnnxEngine
from cnn_tl.networks.backbone import backbone_tensors
from cnn_tl.networks.graph import make, shipped
from cnn_tl.networks.graph.session import is_in_graph
from cnn_tl.networks.info import tensors_digest
from cnn_tl.networks.pretrained import weights
from cnn_tl.networks.pretrained.weights import PublishedWeights

LITE0 = "tf_efficientnet_lite0"


def source_of(architecture: str) -> weights.Source:
    """Return the package with the weights, or skip."""
    try:
        found = weights.locate(architecture)
    except ResourceError:
        found = None
    if found is None or found.kind != "package":
        pytest.skip(f"the package with the weights of {architecture} is not installed")
    return found


def test_the_default_backbones_ship() -> None:
    assert shipped.names() == sorted(make.ARCHITECTURES) == sorted(weights.PACKAGES)
    assert sum(file.stat().st_size for file in shipped.FOLDER.iterdir()) < 1_000_000


@pytest.mark.parametrize("architecture", make.ARCHITECTURES)
def test_features_and_tensors_are_those_of_the_model(architecture: str) -> None:
    model = weights.create(architecture, source_of(architecture)).eval()
    known = shipped.recall(architecture, None, None)
    assert known is not None
    assert known.graph is not None
    spec, tensors = known.info.preprocessing, known.tensors()
    own = backbone_tensors(model)
    assert list(tensors) == list(own)
    assert all(np.array_equal(tensors[name], array) for name, array in own.items())
    assert tensors_digest(tensors) == known.info.backbone_sha256
    assert known.published == weights.published(architecture)
    pixels = np.random.default_rng(0).integers(0, 256, (2, spec.height, spec.width, 3), dtype=np.uint8)
    expected = torch_features(model, spec, pixels)
    found = OnnxEngine(known.graph, tensors, spec).outputs(pixels)
    assert found.shape == (2, known.info.num_features)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_what_ships_can_be_made_again() -> None:
    """With other versions of torch the graph may be written otherwise, but it computes the same."""
    source_of(LITE0)
    found, graph = make.make(LITE0)
    ships, known = shipped.read(LITE0), shipped.recall(LITE0, None, None)
    assert ships is not None
    assert known is not None
    made = replace(found, info=replace(found.info, timm=ships.info.timm))
    assert json.loads(json.dumps(made.to_json())) == json.loads(json.dumps(ships.to_json()))
    spec, tensors = known.info.preprocessing, known.tensors()
    pixels = np.random.default_rng(0).integers(0, 256, (1, spec.height, spec.width, 3), dtype=np.uint8)
    again, as_shipped = (OnnxEngine(one, tensors, spec).outputs(pixels) for one in (graph, ships.graph))
    np.testing.assert_allclose(again, as_shipped, atol=1e-5 * np.abs(as_shipped).max())


@pytest.mark.parametrize("architecture", make.ARCHITECTURES)
def test_a_graph_that_ships_holds_no_weights_and_no_paths(architecture: str) -> None:
    found = shipped.read(architecture)
    assert found is not None
    assert len(found.graph) < 100_000
    names = [one.name for one in found.tensors if is_in_graph(one.name) and not one.name.startswith("classifier.")]
    assert all(name.encode() in found.graph for name in names)
    for words in (b"site-packages", b"/tmp", b"/home", b".py", b"num_batches_tracked", b"classifier"):
        assert words not in found.graph


def test_names_and_sizes_of_other_networks() -> None:
    source_of(LITE0)
    for name in (LITE0, f"{LITE0}.in1k"):
        known = shipped.recall(name, None, None)
        assert known is not None
        assert (known.info.name, known.info.architecture) == (name, LITE0)
    assert shipped.recall(LITE0, None, 224) is not None
    assert shipped.recall(LITE0, None, 240) is None
    assert shipped.recall(LITE0, Path("own.safetensors"), None) is None
    assert shipped.recall(f"{LITE0}.other", None, None) is None
    assert shipped.recall("resnet18", None, None) is None
    assert shipped.recall("../shipped/tf_efficientnet_lite0", None, None) is None


def test_weights_of_another_version_are_not_taken_for_those_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = source_of(LITE0).path
    assert own is not None
    content = bytearray(own.read_bytes())
    other = tmp_path / "other.pth"
    other.write_bytes(content)
    monkeypatch.setattr(PublishedWeights, "file", lambda _: other)
    assert shipped.recall(LITE0, None, None) is not None
    content[len(content) // 2] ^= 1
    other.write_bytes(content)
    assert shipped.recall(LITE0, None, None) is None
    other.unlink()
    assert shipped.recall(LITE0, None, None) is None
    monkeypatch.setattr(PublishedWeights, "file", lambda _: None)
    assert shipped.recall(LITE0, None, None) is None


def test_the_graph_serves_any_weights_of_the_same_network() -> None:
    found = shipped.read(LITE0)
    assert found is not None
    spec = found.info.preprocessing
    own = found.info.arguments
    assert shipped.graph_for(LITE0, own, replace(spec, crop_pct=1.0, mean=(0.0, 0.0, 0.0))) == found.graph
    assert shipped.graph_for(LITE0, own | {"drop_rate": 0.5}, spec) is None
    assert shipped.graph_for(LITE0, own, Preprocessing(240, 240, "bicubic", 1.0, "center", spec.mean, spec.std)) is None
    assert shipped.graph_for("resnet18", {}, spec) is None


def test_features_need_neither_torch_nor_timm() -> None:
    source_of(LITE0)
    code = (
        "import sys, numpy as np\n"
        "from cnn_tl.networks.graph import shipped\n"
        "from cnn_tl.features.onnx_engine import OnnxEngine\n"
        f"known = shipped.recall({LITE0!r}, None, None)\n"
        "engine = OnnxEngine(known.graph, known.tensors(), known.info.preprocessing)\n"
        "assert engine.outputs(np.zeros((2, 224, 224, 3), np.uint8)).shape == (2, 1280)\n"
        "print([name for name in ('torch', 'timm', 'torchvision', 'onnx', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
