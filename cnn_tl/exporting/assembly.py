"""Assemble the network of a trained model in ONNX, without torch: the graph of its backbone, its weights, its head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser

from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.statistics import VOTE_SMALLEST_SHARE, VOTE_TEMPERATURE, VOTE_TIE
from cnn_tl.exporting.folding import fold
from cnn_tl.networks.bundle import Stored
from cnn_tl.networks.onnx_model import FEATURES, LOGITS

Tensors = Mapping[str, NDArray[Any]]

OF_HEAD = "head/"
"""Prefix of the names of a head's nodes and values."""


def assembled(trained: Stored) -> onnx.ModelProto:
    """Return a network from `input`, normalised float32 [N, 3, height, width], to `logits` and `features`.

    Args:
        trained: with a graph.

    Raises:
        ArtefactError: the graph is damaged, or it or the head does not fit the tensors.
    """
    where = printable(trained.path)
    network = _backbone(trained, where)
    try:
        kind = "linear" if trained.head is None else str(trained.head.get("kind"))
        num_features = network.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        head = _HEADS[kind](trained.classifier_tensors, trained.head or {}, num_features)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtefactError(f"the classifier in {where} does not fit: {type(error).__name__}: {error}") from error
    if head.num_classes != len(trained.classes):
        raise ArtefactError(
            f"the classifier in {where} gives {head.num_classes} logits for {len(trained.classes)} classes"
        )
    _append(network.graph, head)
    return network


def _backbone(trained: Stored, where: str) -> onnx.ModelProto:
    """Return the graph with its weights in it, folded.

    Raises:
        ArtefactError: it is damaged, or belongs to another model.
    """
    assert trained.graph is not None
    try:
        network = onnx.load_model_from_string(trained.graph)
        _fill(network.graph, trained.backbone, where)
        fold(network)
    except ArtefactError:
        raise
    except Exception as error:  # protobuf and onnxruntime have no common class of errors for a bad graph
        reason = " ".join(str(error).split())[:200]
        raise ArtefactError(f"the graph of the backbone in {where} is damaged: {reason}") from error
    return network


def _fill(graph: onnx.GraphProto, tensors: Tensors, where: str) -> None:
    """Put the weights into the graph.

    Raises:
        ArtefactError: the graph belongs to another model.
    """
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        array = tensors.get(tensor.name)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if array is None or array.dtype != dtype or list(array.shape) != list(tensor.dims):
            raise ArtefactError(f"the graph of the backbone in {where} belongs to another model: {tensor.name} differs")
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


@dataclass(frozen=True)
class _Head:
    """A head in ONNX's text format.

    Attributes:
        steps: its nodes, from `features` [N, D] to `logits` [N, K].
        tensors: what they read, by name.
        num_classes: K.
    """

    steps: str
    tensors: Tensors
    num_classes: int


def _linear(tensors: Tensors, _: Mapping[str, Any], num_features: int) -> _Head:
    weight_KD = _shaped(tensors["weight"], None, num_features)
    chosen = {"weight": weight_KD, "bias": _shaped(tensors["bias"], len(weight_KD))}
    return _Head(f"{LOGITS} = Gemm <transB = 1> ({FEATURES}, weight, bias)", chosen, len(weight_KD))


def _perceptron(tensors: Tensors, _: Mapping[str, Any], num_features: int) -> _Head:
    """Return the steps of `head_modules.Perceptron`."""
    hidden_HD = _shaped(tensors["hidden.weight"], None, num_features)
    output_KH = _shaped(tensors["output.weight"], None, len(hidden_HD))
    chosen = {
        "hidden_weight": hidden_HD,
        "hidden_bias": _shaped(tensors["hidden.bias"], len(hidden_HD)),
        "output_weight": output_KH,
        "output_bias": _shaped(tensors["output.bias"], len(output_KH)),
    }
    steps = f"""
        hidden = Gemm <transB = 1> ({FEATURES}, hidden_weight, hidden_bias)
        active = Gelu (hidden)
        {LOGITS} = Gemm <transB = 1> (active, output_weight, output_bias)"""
    return _Head(steps, chosen, len(output_KH))


def _neighbours(tensors: Tensors, spec: Mapping[str, Any], num_features: int) -> _Head:
    """Return the steps of `head_modules.Neighbours`."""
    bank_RD = _shaped(tensors["bank"], None, num_features)
    votes_RK = _shaped(tensors["votes"], len(bank_RD), None)
    count = min(int(spec["neighbours"]), len(bank_RD))
    steps = f"""
        each = Constant <value_ints = [1]> ()
        shortest = Constant <value = float {{1e-12}}> ()
        own_length = ReduceL2 ({FEATURES}, each)
        length = Max (own_length, shortest)
        unit = Div ({FEATURES}, length)
        similarity = Gemm <transB = 1> (unit, bank)
        count = Constant <value_ints = [{count}]> ()
        nearest, _places = TopK <axis = 1> (similarity, count)
        first = Constant <value_ints = [0]> ()
        last = Constant <value_ints = [{count - 1}]> ()
        highest = Gather <axis = 1> (nearest, first)
        lowest = Gather <axis = 1> (nearest, last)
        tie = Constant <value = float {{{VOTE_TIE!r}}}> ()
        enough = Sub (lowest, tie)
        is_near = GreaterOrEqual (similarity, enough)
        near = Cast <to = 1> (is_near)
        behind = Sub (similarity, highest)
        temperature = Constant <value = float {{{VOTE_TEMPERATURE!r}}}> ()
        exponent = Div (behind, temperature)
        strength = Exp (exponent)
        vote = Mul (strength, near)
        counted = MatMul (vote, votes)
        total = ReduceSum (counted, each)
        share = Div (counted, total)
        smallest = Constant <value = float {{{VOTE_SMALLEST_SHARE!r}}}> ()
        positive = Add (share, smallest)
        {LOGITS} = Log (positive)"""
    return _Head(steps, {"bank": bank_RD, "votes": votes_RK}, votes_RK.shape[1])


_HEADS = {"linear": _linear, "mlp": _perceptron, "knn": _neighbours}
"""Kind -> function from the tensors of a head, its spec and the number of features to the head."""


def _shaped(array: NDArray[Any], *shape: int | None) -> NDArray[Any]:
    """Return the array, unchanged.

    Raises:
        ValueError: its shape is another one; None stands for any size.
    """
    if array.ndim != len(shape) or any(
        wanted not in (None, size) for wanted, size in zip(shape, array.shape, strict=True)
    ):
        raise ValueError(f"a tensor has the shape {array.shape}, not {shape}")
    return array


def _append(graph: onnx.GraphProto, head: _Head) -> None:
    """Add a head to the graph of a backbone, with names of its own, and the output `logits`."""
    made = parser.parse_graph(
        f"head (float[batch, D] {FEATURES}) => (float[batch, {head.num_classes}] {LOGITS}) {{ {head.steps} }}"
    )
    for number, node in enumerate(made.node):
        for names in (node.input, node.output):
            names[:] = [_own(name) for name in names]
        node.name = f"{OF_HEAD}{node.op_type}_{number}"
    graph.node.extend(made.node)
    graph.initializer.extend(numpy_helper.from_array(array, _own(name)) for name, array in head.tensors.items())
    graph.output.insert(0, made.output[0])


def _own(name: str) -> str:
    return name if name in (FEATURES, LOGITS) else f"{OF_HEAD}{name}"
