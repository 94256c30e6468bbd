"""Lower precision for a network: fp16, or int8 calibrated on the run's training images.

Only the network changes; the preprocessing before it and the softmax after it stay exact. Integers follow Jacob
et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", sec. 2:
symmetric weights with one scale per output channel, activations with one scale and zero point per tensor.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

from cnn_tl.core import telemetry
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.manifest import ImageRecord, Manifest
from cnn_tl.data.views import transforms
from cnn_tl.exporting.comparison_images import manifest_of
from cnn_tl.networks.bundle import Description
from cnn_tl.networks.onnx_model import FEATURES, INPUT, LOGITS

CALIBRATION_IMAGES = 64
"""Training images for calibration; twice as many did not improve the logits."""
_BATCH = 8


def half(network: onnx.ModelProto, _: Description) -> tuple[onnx.ModelProto, str]:
    """Return the network with fp16 weights and activations; its inputs and outputs stay float32."""
    path = list(sys.path)
    try:
        wrapper = telemetry.onnxruntime("quantization.onnx_model")
        float16 = telemetry.onnxruntime("transformers.float16")  # adds its own folder to sys.path
    finally:
        sys.path[:] = path
    with _quiet():
        lowered = float16.convert_float_to_float16(network, keep_io_types=True)
        wrapper.ONNXModel(lowered).topological_sort()  # the converter appends the casts of the inputs
    return lowered, ""


def eight_bit(network: onnx.ModelProto, trained: Description) -> tuple[onnx.ModelProto, str]:
    """Return the network with int8 weights and uint8 activations, and what it was calibrated on, in words.

    Raises:
        DataError: the training images are not here.
    """
    quantization = telemetry.onnxruntime("quantization")
    shapes = telemetry.onnxruntime("quantization.shape_inference")

    manifest = manifest_of(trained.path)
    chosen = calibration_images(manifest) if manifest else []
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        traced, plain, integers = (Path(scratch) / f"{name}.onnx" for name in ("traced", "plain", "integers"))
        onnx.save(network, traced)
        shapes.quant_pre_process(str(traced), str(plain), skip_symbolic_shape=True)
        reader = _CalibrationReader(
            [manifest.file(image) for image in chosen] if manifest else [], trained.preprocessing
        )
        if not reader.any_image():
            raise DataError(
                f"--precision int8 needs the training images of {printable(trained.path)} for calibration, and "
                f"there is none in {printable(manifest.root if manifest else trained.path)}"
            )
        quantization.quantize_static(
            str(plain),
            str(integers),
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            nodes_to_exclude=_sensitive(onnx.load(plain).graph),
            reduce_range=True,  # 7 bits: without VNNI, a CPU adds two products in 16 bits, which 8 bits overflow
        )
        return onnx.load(integers), counted(reader.seen, "training image")


LOWER: dict[str, Callable[[onnx.ModelProto, Description], tuple[onnx.ModelProto, str]]] = {
    "fp16": half,
    "int8": eight_bit,
}
"""Precision below fp32 -> the function that converts the network, and says what it was calibrated on."""


def calibration_images(manifest: Manifest) -> list[ImageRecord]:
    """Return training images, the classes in turn, ordered by digest, so that moved images are still the same."""
    by_class: list[list[ImageRecord]] = [[] for _ in manifest.classes]
    for image in sorted(manifest.of("train"), key=lambda image: image.sha256):
        by_class[image.label].append(image)
    turns = [(turn, image) for images in by_class for turn, image in enumerate(images)]
    return [image for _, image in sorted(turns, key=lambda pair: pair[0])][:CALIBRATION_IMAGES]


def _sensitive(network: onnx.GraphProto) -> list[str]:
    """Return the names of the first convolution and the classifier, whose float32 costs no time and keeps answers."""
    chosen = [node.name for node in network.node if node.op_type == "Conv"][:1]
    of_classifier = {FEATURES}
    for node in network.node:  # in the order in which they run
        if LOGITS in node.output or of_classifier & set(node.input):
            of_classifier.update(node.output)
            chosen.append(node.name)
    return chosen


class _CalibrationReader:
    """Returns normalised images in batches, for onnxruntime's calibration."""

    def __init__(self, paths: list[Path], spec: Preprocessing) -> None:
        self.seen = 0
        self._spec = spec
        self._blocks = self._read(paths)
        self._first: Pixels | None = None

    def any_image(self) -> bool:
        self._first = next(self._blocks, None)
        return self._first is not None

    def get_next(self) -> dict[str, Any] | None:
        pixels, self._first = self._first if self._first is not None else next(self._blocks, None), None
        if pixels is None:
            return None
        self.seen += len(pixels)
        return {INPUT: transforms.normalise(pixels, self._spec)}

    def _read(self, paths: list[Path]) -> Iterator[Pixels]:
        def read(path: Path) -> Pixels:
            return transforms.read_pixels(path, self._spec)

        for batch in batches(paths, read, batch_size=_BATCH, workers=default_workers()):
            if batch.items:  # the others are gone or changed since training
                yield batch.pixels


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the converters' messages, and keep their handlers off the root logger."""
    root, silent, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(silent)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(silent)
