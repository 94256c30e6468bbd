"""Make the graph of a timm model's backbone, with torch's exporter.

The exporter names the weights as the model does. They are taken out before the graph is simplified, so nothing of them
is left in it; onnxruntime simplifies further once it has them, such as a BatchNorm into the convolution before it.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks.backbone import backbone_tensors, keep_without_classifier
from cnn_tl.networks.graph.session import BATCH, INPUT, OUTPUT, is_in_graph

_LOCATION = "weights"
"""A name that onnxruntime does not look up: it gets the tensors themselves."""


class NoGraphError(Exception):
    """The model cannot be expressed in ONNX; the message says why."""


def graph_of(model: nn.Module, spec: Preprocessing) -> bytes:
    """Return the graph from images [batch, 3, height, width] to features [batch, D], without weights.

    Args:
        model: a timm model that ends in one linear classifier, on the CPU; it is not changed.

    Raises:
        NoGraphError: torch cannot express it in ONNX for any number of images, or not with its own weights as they are.
    """
    tensors = {name: array for name, array in backbone_tensors(model).items() if is_in_graph(name)}
    try:
        exported = _export(_without_classifier(model), spec, tensors)
        return bytes(_with_weights_outside(exported, tensors).SerializeToString())
    except Exception as error:  # each architecture fails in its own way
        reason = " ".join(str(error).split())[:200]
        raise NoGraphError(f"{type(error).__name__}: {reason}") from error


def _without_classifier(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).eval()
    keep_without_classifier(copied)
    return copied


def _export(model: nn.Module, spec: Preprocessing, tensors: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """Return the simplified graph; its inputs are the images and then the weights that it uses."""
    from onnxscript import optimizer

    images = torch.zeros(2, 3, spec.height, spec.width)
    with quiet_exporter():
        program = torch.onnx.export(
            _Flat(model), (images,), dynamo=True, optimize=False, verbose=False, input_names=[INPUT],
            output_names=[OUTPUT], dynamic_shapes=({0: torch.export.Dim(BATCH, min=1)},),
        )  # fmt: skip
        assert program is not None  # only the old exporter returns None
        graph = program.model.graph
        for name, value in list(graph.initializers.items()):
            own = name.removeprefix(_PREFIX)
            if own in tensors:
                del graph.initializers[name]
                value.name, value.const_value = own, None
                graph.inputs.append(value)
        optimizer.optimize(program.model)
    for node in graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    return program.model_proto


_PREFIX = "model."


class _Flat(nn.Module):
    """Returns features [N, D], also of a model whose classifier would be a 1x1 convolution."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.model(x_NCHW).flatten(1)
        return features


def _with_weights_outside(model: onnx.ModelProto, tensors: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """Turn the inputs that are weights into initializers without data; add the weights that no node uses.

    So the names of the initializers follow from the model, and no list of them is needed.
    """
    graph = model.graph
    for one in [one for one in graph.input if one.name != INPUT]:
        graph.input.remove(one)
    for name, array in tensors.items():
        tensor = graph.initializer.add(name=name, dims=array.shape, data_location=onnx.TensorProto.EXTERNAL)
        tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        length = math.prod(array.shape) * array.itemsize
        for key, text in (("location", _LOCATION), ("offset", "0"), ("length", str(length))):
            tensor.external_data.add(key=key, value=text)
    return model


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Hide the messages of torch's exporter."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
