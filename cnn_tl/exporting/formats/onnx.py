"""ONNX: one self-contained file for any batch size, with class names and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from cnn_tl.abstention.threshold_table import ThresholdTable
from cnn_tl.core import telemetry
from cnn_tl.core.errors import ArtefactError, CnnTlError, printable
from cnn_tl.core.imports import OLDEST_ONNXRUNTIME
from cnn_tl.exporting import onnx_graph
from cnn_tl.exporting.assembly import assembled
from cnn_tl.exporting.options import FormatOptions, Options
from cnn_tl.exporting.precision import LOWER
from cnn_tl.exporting.precision_cost import Lowered
from cnn_tl.networks import onnx_model
from cnn_tl.networks.bundle import Bundle, Description, Stored
from cnn_tl.networks.onnx_model import DISTANCE, OnnxModel

LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights: protobuf is limited to 2 GiB, and the graph needs some of it."""


def write(trained: Bundle | Stored, path: Path, options: Options) -> OnnxModel | Lowered:
    """Write the model and return it as read back; in a lower precision, together with the one in float32.

    Raises:
        ArtefactError: torch cannot express this model in ONNX, or its weights do not fit into one file.
        DataError: the precision is int8, and the training images are not here.
        UsageError: ONNX cannot resize as the model's preprocessing does.
    """
    options = options.of("onnx")
    network = network_of(trained)
    if options.precision == "fp32":
        _save_whole(network, trained, path, options)
        return OnnxModel.open(path)
    original = _copy(network)
    network, calibration = _lowered(network, trained, options)
    _save_whole(network, trained, path, options)
    with TemporaryDirectory() as scratch:
        beside = Path(scratch) / "fp32.onnx"
        _save_whole(original, trained, beside, options)
        fp32, size = OnnxModel.open(beside), beside.stat().st_size
    return Lowered(OnnxModel.open(path), options.precision, calibration, fp32, size)


def network_of(trained: Bundle | Stored) -> onnx.ModelProto:
    """Return the network alone, from `input`, normalised float32 [N, 3, height, width], to `logits` and `features`.

    Raises:
        ArtefactError: its weights do not fit into one file; the files of the bundle do not fit each other; or torch,
            which is needed for a bundle without a graph, cannot express this model in ONNX.
    """
    size = sum(int(tensor.nbytes) for tensor in _tensors(trained).values())
    if size > LARGEST_FILE:
        raise ArtefactError(
            f"{printable(trained.path)} has {size / 2**30:.1f} GiB of weights; one ONNX file holds 2 GiB"
        )
    if isinstance(trained, Stored):
        return assembled(trained)
    from cnn_tl.exporting.tracing import traced

    return traced(trained)


def _tensors(trained: Bundle | Stored) -> Mapping[str, Any]:
    return trained.tensors if isinstance(trained, Stored) else trained.model.state_dict()


def _lowered(network: onnx.ModelProto, trained: Bundle | Stored, options: Options) -> tuple[onnx.ModelProto, str]:
    """Return the network in a lower precision, and what it was calibrated on, in words."""
    try:
        return LOWER[options.precision](network, trained)
    except CnnTlError:
        raise
    except Exception as error:  # each architecture fails in its own way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
        raise ArtefactError(
            f"{printable(trained.path)} cannot be expressed in {options.precision}: {reason}"
        ) from error


def _save_whole(network: onnx.ModelProto, trained: Bundle | Stored, path: Path, options: FormatOptions) -> None:
    """Add outputs, preprocessing and metadata to a network, and write it."""
    model = onnx_graph.with_outputs(network, options.outputs, trained.distance)
    if options.preprocess == "inside":
        model = onnx_graph.from_pixels(model, trained.preprocessing)
    onnx.helper.set_model_props(model, _metadata(trained, model, options))
    save(model, path)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph followed by its digest."""
    content = model.SerializeToString()
    with path.open("wb") as stream:
        stream.write(content)
        stream.write(onnx_model.checksum(content))


def _metadata(trained: Bundle | Stored, model: onnx.ModelProto, options: FormatOptions) -> dict[str, str]:
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    inside = options.preprocess == "inside"
    about = onnx_model.metadata(
        trained.classes,
        trained.preprocessing,
        trained.architecture,
        opset,
        inside=inside,
        thresholds=thresholds_of(trained, options.outputs),
        reliable=trained.facts.get("thresholds") or (),
        majority_class=trained.majority_class,
    )
    return {**about, "precision": options.precision, "onnxruntime": needed_onnxruntime(model.ir_version, opset)}


def thresholds_of(trained: Description, outputs: Sequence[str]) -> ThresholdTable | None:
    """Return what a file with these outputs says of confidence and distance; None for a bundle that does not know."""
    evidence = trained.evidence
    return None if evidence is None else ThresholdTable.of(evidence, measured=DISTANCE in outputs)


def needed_onnxruntime(ir_version: int, opset: int) -> str:
    """Return the oldest onnxruntime that reads such a graph.

    See https://onnxruntime.ai/docs/reference/compatibility.html. If torch writes a newer format one day, it is the
    installed version, which has run the comparison.
    """
    newer = ir_version > 10 or opset > 21
    return str(telemetry.onnxruntime().__version__) if newer else OLDEST_ONNXRUNTIME
