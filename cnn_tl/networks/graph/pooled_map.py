"""The map that a graph averages into its features, as a second output of the graph."""

from __future__ import annotations

from typing import Any

from cnn_tl.core.errors import ArtefactError

MAP = "map"
"""Name of the second output, float32 [batch, D, h, w]: its mean over h and w should be the features."""

_POOLS = ("GlobalAveragePool", "ReduceMean")
_KEEP_VALUES = ("Reshape", "Flatten", "Squeeze", "Identity", "Dropout", "Gather")
"""What exporters put between a pool and the features. Gather can select others, so the caller compares the values."""


def with_map(graph: bytes) -> bytes | None:
    """Return the graph with the output `MAP`, what its last pool averages; None if it does not end in such a pool.

    Args:
        graph: from `trace.graph_of`.

    Raises:
        ArtefactError: it is damaged.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(graph)
    except Exception as error:  # a DecodeError of protobuf, which onnx does not name
        raise ArtefactError("the graph of the backbone is damaged") from error
    pool = _last_pool(model.graph)
    if pool is None:
        return None
    model.graph.node.append(onnx.helper.make_node("Identity", [pool.input[0]], [MAP]))
    model.graph.output.append(onnx.helper.make_tensor_value_info(MAP, onnx.TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def _last_pool(graph: Any) -> Any | None:
    """Return the node whose output the features are, in another shape."""
    makers = {output: node for node in graph.node for output in node.output}
    node = makers.get(graph.output[0].name) if graph.output else None
    while node is not None and node.op_type in _KEEP_VALUES:
        node = makers.get(node.input[0])
    return node if node is not None and node.op_type in _POOLS else None
