"""Compute in advance what depends on weights alone: constants, and the effect of a BatchNorm after a convolution.

onnxruntime does the same when it loads a file, but other programs may not; and a conversion to a lower precision should
begin with exact values.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from cnn_tl.core import telemetry

_ERRORS_ONLY = 3
_NESTED = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def fold(network: onnx.ModelProto) -> None:
    """Change a network in evaluation mode, which has its weights in it, into a smaller one that is equal to it.

    One with branches, loops or functions stays as it is: the runtime simplifies what it takes.
    """
    if network.functions or any(one.type in _NESTED for node in network.graph.node for one in node.attribute):
        return
    _fold_constants(network)
    _fold_batchnorm(network.graph)
    _drop_unread(network.graph)


def _fold_constants(network: onnx.ModelProto) -> None:
    """Replace what nodes compute from weights alone, such as a transposed matrix, by the results."""
    graph = network.graph
    known = {tensor.name for tensor in graph.initializer}
    constant, rest = [], []
    for node in graph.node:  # in the order in which they run
        if set(node.input) - {""} <= known:
            constant.append(node)
            known.update(node.output)
        else:
            rest.append(node)
    if not constant:
        return
    read = _names_read(rest, graph)
    wanted = [name for node in constant for name in node.output if name in read]
    results = _computed(network, constant, wanted)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in results.items())
    del graph.node[:]
    graph.node.extend(rest)


def _computed(network: onnx.ModelProto, nodes: list[onnx.NodeProto], wanted: list[str]) -> dict[str, NDArray[Any]]:
    """Return values that nodes compute from weights, by name."""
    read = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in network.graph.initializer if tensor.name in read]
    outputs = [helper.make_empty_tensor_value_info(name) for name in wanted]
    graph = helper.make_graph(nodes, "constants", [], outputs, weights)
    model = helper.make_model(graph, opset_imports=network.opset_import, ir_version=network.ir_version)
    onnxruntime = telemetry.onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(wanted, session.run(wanted, {}), strict=True))


def _fold_batchnorm(graph: onnx.GraphProto) -> None:
    """Let each convolution do what the BatchNorm after it does (Jacob et al. 2018, sec. 3.2), if nothing else reads it.

    The products are computed in float64 and rounded once.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    convolutions = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(one.name for one in graph.output)
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        convolution = convolutions.get(norm.input[0])
        if convolution is None or readers[norm.input[0]] > 1 or readers[convolution.input[1]] > 1:
            continue
        if not {*norm.input[1:], *convolution.input[1:]} <= weights.keys():
            continue
        scale, shift, mean, variance = (_double(weights[name]) for name in norm.input[1:])
        kernel, *biases = (_double(weights[name]) for name in convolution.input[1:])
        factor = scale / np.sqrt(variance + _epsilon(norm))
        bias = (sum(biases) - mean) * factor + shift
        _set(weights[convolution.input[1]], kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1)))
        convolution.input[2:] = [f"{norm.output[0]}/bias"]
        _set(graph.initializer.add(name=convolution.input[2]), bias)
        convolution.output[0] = norm.output[0]
        graph.node.remove(norm)


def _double(tensor: onnx.TensorProto) -> NDArray[np.float64]:
    return numpy_helper.to_array(tensor).astype(np.float64)


def _set(tensor: onnx.TensorProto, values: NDArray[np.float64]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def _epsilon(norm: onnx.NodeProto) -> float:
    return next((float(one.f) for one in norm.attribute if one.name == "epsilon"), 1e-5)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the weights that no node reads any more, and the shapes of values that are gone."""
    read, made = _names_read(graph.node, graph), {name for node in graph.node for name in node.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    for value in [value for value in graph.value_info if value.name not in made]:
        graph.value_info.remove(value)


def _names_read(nodes: Any, graph: onnx.GraphProto) -> set[str]:
    return {name for node in nodes for name in node.input} | {one.name for one in graph.output}
