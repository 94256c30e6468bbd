"""Add to a network in ONNX how far its features lie from what training showed."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper, parser

from cnn_tl.abstention.distance import LEAST_SQUARE, FeatureDistance
from cnn_tl.core.errors import ArtefactError
from cnn_tl.networks.onnx_model import DISTANCE, FEATURES

PREFIX = "distance/"
"""Of the names of the nodes and values."""

_STEPS = f"""
    each = Constant <value_ints = [1]> ()
    shortest = Constant <value = float {{1e-12}}> ()
    sign = Sign ({FEATURES})
    size = Abs ({FEATURES})
    root_of_size = Sqrt (size)
    signed_root = Mul (sign, root_of_size)
    own_length = ReduceL2 (signed_root, each)
    length = Max (own_length, shortest)
    at_unit_length = Div (signed_root, length)
    x = Sub (at_unit_length, mean)
    to_means = Gemm <transB = 1, alpha = -2.0> (x, layer, offsets)
    nearest = ReduceMin (to_means, each)
    along = Gemm <transB = 1> (x, axes)
    squares = Mul (along, along)
    of_axes = MatMul (squares, weights)
    square = ReduceSumSquare (x, each)
    of_rest = Mul (square, rest)
    own = Add (of_axes, of_rest)
    whole = Add (own, nearest)
    least = Constant <value = float {{{LEAST_SQUARE}}}> ()
    at_least = Max (whole, least)
    root = Sqrt (at_least)
    scaled = Div (root, scale)
    {DISTANCE} = Squeeze (scaled, each)"""


def add_distance(network: onnx.ModelProto, distance: FeatureDistance) -> None:
    """Give a network the output `distance`, float32 [N], as `FeatureDistance` computes it from `features`.

    Added to a network in a lower precision, whose `features` are float32 again, it stays exact.

    Raises:
        ArtefactError: the network has another number of features.
    """
    [features] = (one for one in network.graph.output if one.name == FEATURES)
    num_features = features.type.tensor_type.shape.dim[1].dim_value
    if num_features not in (0, distance.layer.shape[1]):  # 0: the graph does not say
        raise ArtefactError(
            f"the evidence is of {distance.layer.shape[1]} features, and the network has {num_features}"
        )
    mean_D, distance = distance.centred
    tensors = {
        "mean": mean_D,
        "layer": distance.layer,
        "offsets": distance.offsets,
        "axes": distance.axes,
        "weights": (distance.weights - np.float32(distance.rest))[:, None],
        "rest": np.float32(distance.rest),
        "scale": np.float32(distance.scale),
    }
    made = parser.parse_graph(f"own (float[batch, D] {FEATURES}) => (float[batch] {DISTANCE}) {{ {_STEPS} }}")
    for number, node in enumerate(made.node):
        for names in (node.input, node.output):
            names[:] = [name if name in (FEATURES, DISTANCE) else PREFIX + name for name in names]
        node.name = f"{PREFIX}{node.op_type}_{number}"
    network.graph.node.extend(made.node)
    network.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array, np.float32), PREFIX + name) for name, array in tensors.items()
    )
    network.graph.output.append(made.output[0])
