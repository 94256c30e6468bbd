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
from io import StringIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from cnn_tl.core.monkeypatch import attribute_replaced
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks.backbone import backbone_tensors, keep_without_classifier
from cnn_tl.networks.graph.session import BATCH, INPUT, OUTPUT, is_in_graph

_LOCATION = ""
"""No file: if onnxruntime does not get a tensor, it must not look for it in the working directory."""


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
        _require_any_number_of_images(exported)
        return bytes(_with_weights_outside(exported, tensors).SerializeToString())
    except NoGraphError:
        raise
    except Exception as error:  # each architecture fails in its own way
        cause = error.__cause__ or error  # the exporter wraps it in advice to developers of models
        reason = " ".join(str(cause).partition("\n\n")[0].split())[:200]
        raise NoGraphError(f"{type(cause).__name__}: {reason}") from error


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
    graph.metadata_props.clear()  # what torch called each tensor: a third of the file
    for node in graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    return program.model_proto


def _require_any_number_of_images(model: onnx.ModelProto) -> None:
    """Check that the exporter has not fixed the number of images where a model's code needs the two of the trace."""
    for one in (model.graph.input[0], model.graph.output[0]):
        sizes = one.type.tensor_type.shape.dim
        if not sizes or sizes[0].dim_param != BATCH:
            raise NoGraphError("it does not take any number of images at once")


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
    """Hide the messages of torch's exporter, also what it prints of a model that it cannot trace."""
    from torch.export import _trace

    loggers = [logging.getLogger(f"torch.{name}") for name in ("onnx", "export", "fx")]
    loggers += [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    nowhere = SimpleNamespace(stderr=StringIO())
    with warnings.catch_warnings(), attribute_replaced(_trace, "sys", nowhere):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
