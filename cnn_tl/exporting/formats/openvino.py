"""OpenVINO: model.xml and model.bin, converted from the ONNX network; takes normalised images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl import __version__
from cnn_tl.core import telemetry
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.exporting import onnx_graph
from cnn_tl.exporting.formats import onnx as onnx_format
from cnn_tl.exporting.options import Options
from cnn_tl.exporting.parity import TakesNormalised
from cnn_tl.networks.bundle import Bundle, Stored
from cnn_tl.networks.onnx_model import DISTANCE, INPUT, LOGITS, joined

MODEL = "model.xml"


class OpenVinoModel(TakesNormalised):
    """The folder as OpenVINO runs it on the CPU in float32; see `parity.Exported`."""

    def __init__(self, folder: Path) -> None:
        openvino = telemetry.openvino()
        model = openvino.Core().read_model(folder / MODEL)
        self._names = {name for output in model.outputs for name in output.get_names()}
        self._compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self.facts: Mapping[str, str] = {"architecture": str(model.get_rt_info(["cnn_tl", "architecture"]).value)}

    def __call__(self, x_nchw: NDArray[Any]) -> NDArray[np.float32]:
        """Return the outputs of normalised images, see `parity.Exported`."""
        found = self._compiled({INPUT: x_nchw})
        return joined(*(found[name] for name in (LOGITS, DISTANCE) if name in self._names))


def write(trained: Bundle | Stored, path: Path, options: Options) -> OpenVinoModel:
    """Write the folder's files into `path` and return the model as read back.

    Raises:
        ArtefactError: the model cannot be converted.
    """
    openvino = telemetry.openvino()
    outputs = options.of("openvino").outputs
    network = onnx_graph.with_outputs(onnx_format.network_of(trained), outputs, trained.distance)
    with TemporaryDirectory() as scratch:
        plain = Path(scratch) / "network.onnx"
        onnx_format.save(network, plain)
        try:
            model = openvino.Core().read_model(plain)
        except Exception as error:  # OpenVINO has no common exception class
            reason = " ".join(str(error).split())[:200]
            raise ArtefactError(f"{printable(trained.path)} cannot be converted to OpenVINO: {reason}") from error
    thresholds = onnx_format.thresholds_of(trained, outputs)
    about = {
        **({} if thresholds is None else {"thresholds": json.dumps(thresholds.to_dict())}),
        "version": __version__,
        "architecture": trained.architecture,
        "class_names": json.dumps(trained.classes),
        "preprocessing": json.dumps(trained.preprocessing.to_dict()),
    }
    for key, value in about.items():
        model.set_rt_info(value, ["cnn_tl", key])
    openvino.save_model(model, path / MODEL, compress_to_fp16=False)
    return OpenVinoModel(path)
