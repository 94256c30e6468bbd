"""A graph names the tensors of its model and holds none of them; what cannot be one is refused in a line."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_network
import torch
from torch import Tensor, nn
from traced import tiny, torch_features

from cnn_tl.core.errors import ArtefactError
from cnn_tl.data.views.transforms import normalise
from cnn_tl.networks.backbone import backbone_tensors
from cnn_tl.networks.classic.googlenet import GoogLeNet
from cnn_tl.networks.graph import trace
from cnn_tl.networks.graph.session import BATCH, INPUT, OUTPUT, is_in_graph, open_session
from cnn_tl.networks.graph.trace import NoGraphError, graph_of


def test_the_initializers_are_the_tensors_of_the_backbone() -> None:
    graph = onnx.load_from_string(tiny().graph).graph
    own = {one.name: tuple(one.dims) for one in graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL}
    assert own == {name: array.shape for name, array in tiny().tensors.items() if is_in_graph(name)}
    assert not any(name.startswith("fc.") or "num_batches_tracked" in name for name in own)


def test_the_input_is_a_number_of_images_and_the_output_their_features() -> None:
    graph = onnx.load_from_string(tiny().graph).graph
    [images], [features] = graph.input, graph.output
    assert (images.name, features.name) == (INPUT, OUTPUT)
    sizes = [size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim]
    assert sizes == [BATCH, 3, 24, 24]
    assert [size.dim_param or size.dim_value for size in features.type.tensor_type.shape.dim] == [BATCH, 12]


def test_nothing_of_the_weights_is_in_a_graph() -> None:
    assert len(tiny().graph) < 10_000
    for name, array in tiny().tensors.items():
        if array.size > 1:
            assert array.tobytes()[:16] not in tiny().graph, name
    assert all(not one.raw_data and not one.float_data for one in _external(tiny().graph))


def test_a_graph_does_not_depend_on_the_weights() -> None:
    other = tiny_network.TinyNetwork()
    other.load_state_dict(tiny_network.random_tensors(seed=1))
    assert graph_of(other.eval(), tiny().spec) == tiny().graph


def test_a_graph_leaves_out_what_only_training_computes() -> None:
    """A loop finds the graph of GoogLeNet while its auxiliary classifiers are there."""
    model = GoogLeNet(num_classes=2).eval()
    plain = graph_of(model, tiny().spec)
    model.add_auxiliary()
    assert graph_of(model.eval(), tiny().spec) == plain
    open_session(plain, backbone_tensors(model))


def test_a_graph_names_no_file_of_this_machine() -> None:
    for place in (Path.cwd(), Path(torch.__file__).parents[1], Path(__file__).parents[2], Path.home()):
        assert str(place).encode() not in tiny().graph or place == Path("/")
    assert b".py" not in tiny().graph


def test_the_model_is_not_changed() -> None:
    model = tiny_network.TinyNetwork().train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    graph_of(model, tiny().spec)
    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert list(model.state_dict()) == list(state)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class ConvolutionAtTheEnd(tiny_network.TinyNetwork):
    """Classifies the pooled channels by a 1x1 convolution, as some families do."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(12, 10, 1)  # type: ignore[assignment]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.fc(self.forward_features(x_NCHW).mean((2, 3), keepdim=True)).flatten(1)


def test_a_convolution_as_the_classifier() -> None:
    torch.manual_seed(0)
    model, network = ConvolutionAtTheEnd().eval(), tiny()
    session = open_session(graph_of(model, network.spec), backbone_tensors(model))
    found = session.run([OUTPUT], {INPUT: normalise(network.pixels(1), network.spec)})[0]
    expected = torch_features(model, network.spec, network.pixels(1))
    assert found.shape == expected.shape == (1, 12)
    np.testing.assert_allclose(found, expected, atol=1e-5)


class LooksAtTheImage(tiny_network.TinyNetwork):
    """Its layers depend on what the image shows."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return super().forward(x_NCHW if x_NCHW.mean() > 0 else -x_NCHW)


class ForTwoImages(tiny_network.TinyNetwork):
    """Takes exactly two images."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        first, second = super().forward(x_NCHW).unbind()
        return torch.stack([first, second])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LooksAtTheImage, "GuardOnDataDependentSymNode: Could not guard on data-dependent expression"),
        (ForTwoImages, "does not take any number of images at once"),
    ],
)
def test_what_cannot_be_a_graph_is_refused_in_a_line(
    kind: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NoGraphError, match=message) as refused:
        graph_of(kind().eval(), tiny().spec)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 250
    assert capfd.readouterr() == ("", "")


def test_the_exporter_logs_again_afterwards() -> None:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    before, stderr = [logger.level for logger in loggers], sys.stderr
    with trace.quiet_exporter():
        assert [logger.level for logger in loggers] == [logging.ERROR] * 2
    assert [logger.level for logger in loggers] == before
    assert sys.stderr is stderr
    assert torch.export._trace.sys is sys


def test_the_graph_of_another_model_is_refused() -> None:
    """Such as the tensors of a narrower network of the same family."""
    narrow = {name: array[:4] if array.ndim else array for name, array in tiny().tensors.items()}
    with pytest.raises(ArtefactError, match="cannot be loaded"):
        open_session(tiny().graph, narrow)


def _external(graph: bytes) -> list[onnx.TensorProto]:
    return [
        one for one in onnx.load_from_string(graph).graph.initializer if one.data_location == onnx.TensorProto.EXTERNAL
    ]
