"""Open a graph without weights in onnxruntime, with the tensors of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core import telemetry
from cnn_tl.core.errors import ArtefactError

INPUT, OUTPUT, BATCH = "input", "features", "batch"
"""Names of the input, normalised float32 [batch, 3, height, width], the output [batch, D], and the free dimension."""

NOT_IN_GRAPH = "num_batches_tracked"
"""Only training reads these counters of BatchNorm."""

AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
"""Prefixes of the auxiliary classifiers that Inception and GoogLeNet have for training only; timm leaves them out."""

_ERRORS_ONLY = 3


def is_in_graph(name: str) -> bool:
    """Return whether a graph takes a backbone's tensor of this name."""
    return not (name.endswith(NOT_IN_GRAPH) or name.startswith(AUXILIARY))


def open_session(graph: bytes, tensors: Mapping[str, NDArray[Any]]) -> Any:
    """Return an `onnxruntime.InferenceSession` that computes the features of one image at a time, on one thread.

    Kernels are chosen by the size of a batch and work is divided among threads, and both affect the last bits. So an
    image's features depend neither on other images nor on the number of cores. Several threads may use the session at
    once: two threads with an image each gave 433 img/s (tf_efficientnet_lite0, two cores), two threads that share each
    layer of an image 310, batches of 8 362.

    Args:
        graph: from `trace.graph_of`.
        tensors: those of the backbone, by their names in the model.

    Raises:
        ArtefactError: the graph is damaged, or belongs to another model.
    """
    onnxruntime = telemetry.onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_free_dimension_override_by_name(BATCH, 1)
    chosen = {name: np.ascontiguousarray(array) for name, array in tensors.items() if is_in_graph(name)}
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in chosen.values()]
    try:
        options.add_external_initializers(list(chosen), values)
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common class of errors for a bad model
        raise ArtefactError(
            f"the graph of the backbone cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error


def checked_ends(session: Any, height: int, width: int) -> int:
    """Return the number of features, D, of a session that takes images of this size.

    Raises:
        ArtefactError: its input or its output is another.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    ends = [(one.name, one.type, one.shape) for one in (*inputs, *outputs)]
    num_features = outputs[0].shape[-1] if outputs and outputs[0].shape else None
    expected = [(INPUT, [1, 3, height, width]), (OUTPUT, [1, num_features])]
    if not isinstance(num_features, int) or ends != [(name, "tensor(float)", shape) for name, shape in expected]:
        raise ArtefactError(f"the graph of the backbone is not one from images of {height} x {width} px to features")
    return num_features
