"""ONNX: one self-contained file for any batch size, with class names and preprocessing."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn

from cnn_tl.core import telemetry
from cnn_tl.core.errors import ArtefactError, CnnTlError, printable
from cnn_tl.core.imports import OLDEST_ONNXRUNTIME
from cnn_tl.exporting import onnx_graph
from cnn_tl.exporting.options import FormatOptions, Options
from cnn_tl.exporting.precision import LOWER
from cnn_tl.exporting.precision_cost import Lowered
from cnn_tl.networks import onnx_model
from cnn_tl.networks.bundle import Bundle
from cnn_tl.networks.onnx_model import FEATURES, INPUT, LOGITS, OnnxModel

LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights: protobuf is limited to 2 GiB, and the graph needs some of it."""


def write(trained: Bundle, path: Path, options: Options) -> OnnxModel | Lowered:
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


def network_of(trained: Bundle) -> onnx.ModelProto:
    """Return the network alone, from `input`, normalised float32 [N, 3, height, width], to `logits` and `features`.

    Raises:
        ArtefactError: torch cannot express this model in ONNX, or its weights do not fit into one file.
    """
    where = printable(trained.path)
    size = sum(tensor.nbytes for tensor in trained.model.state_dict().values())
    if size > LARGEST_FILE:
        raise ArtefactError(f"{where} has {size / 2**30:.1f} GiB of weights; one ONNX file holds 2 GiB")
    try:
        return _trace(trained)
    except Exception as error:  # each architecture fails in its own way
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ArtefactError(f"{where} cannot be expressed in ONNX: {reason}") from error


def _lowered(network: onnx.ModelProto, trained: Bundle, options: Options) -> tuple[onnx.ModelProto, str]:
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


def _save_whole(network: onnx.ModelProto, trained: Bundle, path: Path, options: FormatOptions) -> None:
    """Add outputs, preprocessing and metadata to a network, and write it."""
    model = onnx_graph.with_outputs(network, options.outputs)
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


class _WithFeatures(nn.Module):
    """Returns the logits [N, K], and the input of the classifier, the features [N, D]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        classifier = model.get_classifier()  # type: ignore[operator]
        self._parts = classifier if isinstance(classifier, tuple | list) else [classifier]  # distilled models have two

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        features: list[Tensor] = []
        hooks = [part.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0])) for part in self._parts]
        try:
            logits = self.model(x_nchw)
        finally:
            for hook in hooks:  # the model is used afterwards for the comparison
                hook.remove()
        return logits, features[0].flatten(1)


def _trace(trained: Bundle) -> onnx.ModelProto:
    spec = trained.preprocessing
    x_nchw = torch.zeros(2, 3, spec.height, spec.width)
    with _quiet():
        program = torch.onnx.export(
            _WithFeatures(trained.model),
            (x_nchw,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[LOGITS, FEATURES],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    assert program is not None  # only the old exporter returns None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    return program.model_proto


def _metadata(trained: Bundle, model: onnx.ModelProto, options: FormatOptions) -> dict[str, str]:
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    architecture: str = trained.model.pretrained_cfg["architecture"]  # type: ignore[index,assignment]
    inside = options.preprocess == "inside"
    thresholds = trained.facts.get("thresholds") or ()
    about = onnx_model.metadata(
        trained.classes, trained.preprocessing, architecture, opset, inside=inside, thresholds=thresholds,
        majority_class=trained.majority_class,
    )  # fmt: skip
    return {**about, "precision": options.precision, "onnxruntime": needed_onnxruntime(model.ir_version, opset)}


def needed_onnxruntime(ir_version: int, opset: int) -> str:
    """Return the oldest onnxruntime that reads such a graph.

    See https://onnxruntime.ai/docs/reference/compatibility.html. If torch writes a newer format one day, it is the
    installed version, which has run the comparison.
    """
    newer = ir_version > 10 or opset > 21
    return str(telemetry.onnxruntime().__version__) if newer else OLDEST_ONNXRUNTIME


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the messages of the exporter."""
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
