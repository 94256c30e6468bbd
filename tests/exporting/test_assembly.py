"""The network that is assembled without torch computes what the torch model computes, for every kind of head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from tiny_heads import SPECS, K, tensors_of

from cnn_tl.core import telemetry
from cnn_tl.core.errors import ArtefactError
from cnn_tl.exporting.assembly import OF_HEAD, assembled
from cnn_tl.exporting.tracing import traced
from cnn_tl.networks import bundle
from cnn_tl.networks.bundle import Stored


@pytest.fixture(params=SPECS)
def folder(request: pytest.FixtureRequest, tmp_path: Path, graph_folder: Path) -> Path:
    """Write the tiny bundle under a head of each kind."""
    about, config = bundle.read(graph_folder), bundle.read_config(graph_folder)
    tensors = {**about.backbone, **{f"fc.{name}": array for name, array in tensors_of(request.param).items()}}
    options: dict[str, Any] = {"classes": about.classes, "preprocessing": about.preprocessing, "facts": {}}
    head = SPECS[request.param]
    bundle.save(tmp_path / "model", tensors, config, **options, head=head, graph=about.graph, classifier="fc")
    return tmp_path / "model"


@pytest.fixture
def stored(graph_folder: Path) -> Stored:
    return bundle.read(graph_folder)


def outputs(network: onnx.ModelProto, x_NCHW: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    onnxruntime = telemetry.onnxruntime()
    session = onnxruntime.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(["logits", "features"], {"input": x_NCHW})
    return found


def images(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(count, 3, 48, 48)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 5])
def test_every_head_computes_what_torch_computes(folder: Path, count: int) -> None:
    x_NCHW, trained = images(count), bundle.load(folder)
    logits, features = outputs(assembled(bundle.read(folder)), x_NCHW)
    with torch.inference_mode():
        expected = trained.model(torch.from_numpy(x_NCHW))
        below = trained.model.forward_head(trained.model.forward_features(torch.from_numpy(x_NCHW)), pre_logits=True)
    np.testing.assert_allclose(features, below, rtol=0, atol=1e-5 * float(below.abs().max()))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * max(1, float(expected.abs().max())))
    assert logits.shape == (count, K)


def test_it_equals_what_torch_exports(graph_folder: Path) -> None:
    by_torch = traced(bundle.load(graph_folder))
    network = assembled(bundle.read(graph_folder))
    for found, expected in zip(outputs(network, images(3)), outputs(by_torch, images(3)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for ends, others in ((network.graph.input, by_torch.graph.input), (network.graph.output, by_torch.graph.output)):
        assert [shape_of(one) for one in ends] == [shape_of(one) for one in others]
    assert network.ByteSize() < 1.01 * by_torch.ByteSize()


def shape_of(value: onnx.ValueInfoProto) -> tuple[str, list[str | int]]:
    return value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_network_is_valid_and_whole(folder: Path) -> None:
    network = assembled(bundle.read(folder))
    onnx.checker.check_model(network, full_check=True)
    assert not any(tensor.external_data for tensor in network.graph.initializer)
    assert "BatchNormalization" not in {node.op_type for node in network.graph.node}
    ours = [node for node in network.graph.node if node.name.startswith(OF_HEAD)]
    assert ours
    assert "logits" in ours[-1].output
    read = {name for node in network.graph.node for name in node.input}
    assert {tensor.name for tensor in network.graph.initializer} <= read


def test_a_convolution_as_classifier(stored: Stored) -> None:
    weight = stored.tensors["fc.weight"]
    convolution = replace(stored, tensors={**stored.tensors, "fc.weight": weight[:, :, None, None]})
    expected = outputs(assembled(stored), images(2))[0]
    np.testing.assert_array_equal(outputs(assembled(convolution), images(2))[0], expected)


def test_a_classifier_without_bias(stored: Stored) -> None:
    bare = replace(stored, tensors={name: array for name, array in stored.tensors.items() if name != "fc.bias"})
    expected = outputs(assembled(stored), images(2))[0] - stored.tensors["fc.bias"]
    np.testing.assert_allclose(outputs(assembled(bare), images(2))[0], expected, atol=1e-5)


def changed(stored: Stored, name: str, array: NDArray[Any]) -> Stored:
    return replace(stored, tensors={**stored.tensors, name: array})


def test_a_graph_of_another_model(stored: Stored) -> None:
    fewer = {name: array for name, array in stored.tensors.items() if name != "conv1.0.weight"}
    with pytest.raises(ArtefactError, match=r"model belongs to another model: conv1\.0\.weight differs"):
        assembled(replace(stored, tensors=fewer))
    for weight in (stored.tensors["conv1.0.weight"][:-1], stored.tensors["conv1.0.weight"].astype(np.float64)):
        with pytest.raises(ArtefactError, match=r"model belongs to another model: conv1\.0\.weight differs"):
            assembled(changed(stored, "conv1.0.weight", weight))


def test_a_damaged_graph(stored: Stored) -> None:
    assert stored.graph is not None
    unknown = onnx.load_model_from_string(stored.graph)
    unknown.graph.node.insert(0, onnx.helper.make_node("NoSuchOperator", ["conv1.0.weight"], ["nothing"]))
    for damaged in (b"not a graph", stored.graph[:-100], unknown.SerializeToString()):
        with pytest.raises(ArtefactError, match=r"the graph of the backbone in .* is damaged"):
            assembled(replace(stored, graph=damaged))


def test_an_empty_graph(stored: Stored) -> None:
    with pytest.raises(ArtefactError, match=r"the classifier in .* does not fit: IndexError"):
        assembled(replace(stored, graph=b""))


def test_a_head_that_does_not_fit(stored: Stored) -> None:
    with pytest.raises(ArtefactError, match=r"the classifier in .* does not fit: ValueError: .*\(2, 95\)"):
        assembled(changed(stored, "fc.weight", stored.tensors["fc.weight"][:, 1:]))
    with pytest.raises(ArtefactError, match=r"does not fit: KeyError: 'tree'"):
        assembled(replace(stored, head={"kind": "tree"}))
    with pytest.raises(ArtefactError, match=r"does not fit: KeyError: 'bank'"):
        assembled(replace(stored, head=SPECS["knn"]))
    with pytest.raises(ArtefactError, match=r"gives 2 logits for 3 classes"):
        assembled(replace(stored, classes=("a", "b", "c")))


def test_the_model_is_not_changed(graph_folder: Path) -> None:
    stored = bundle.read(graph_folder)
    before = {name: array.copy() for name, array in stored.tensors.items()}
    assembled(stored)
    for name, array in before.items():
        np.testing.assert_array_equal(stored.tensors[name], array)
