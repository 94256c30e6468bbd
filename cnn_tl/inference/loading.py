"""Load a trained model for predictions: on a CPU in onnxruntime without torch, on a GPU in torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl.core.device import (
    DeviceName,
    begin_loading,
    fp32_switches_restored,
    inference_precision,
    may_be_gpu,
    pick_device,
    will_be_cuda,
)
from cnn_tl.core.errors import ArtefactError, UsageError, printable
from cnn_tl.core.files import CHECKSUMS, sha256_file
from cnn_tl.core.imports import refuse_without_torch, require_torch
from cnn_tl.data.loader import Pixels
from cnn_tl.data.views import transforms
from cnn_tl.features.cuda_batch_size import cuda_batch_size
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.features.loading_engine import LoadingEngine
from cnn_tl.inference.classifier import BATCH_SIZE, Classifier, Outputs
from cnn_tl.networks import bundle

if TYPE_CHECKING:
    from cnn_tl.features.engine import Engine

    AnyEngine = HeadedEngine | Engine


def load(
    source: str | Path,
    device: DeviceName = "auto",
    *,
    many: bool = False,
    in_background: bool = False,
    batch_size: int | None = None,
) -> Classifier:
    """Load a run folder, a bundle or a .onnx file.

    On a CPU onnxruntime computes in float32, without torch, one image to a thread; torch is needed for a bundle without
    the graph of its backbone. On CUDA torch computes in bf16 where the hardware multiplies it, unless the model was
    trained with `run.precision: fp32` or by an earlier version of cnn-tl; its last layer always computes in float32.

    Args:
        source: a run folder, a bundle or a .onnx file.
        device: where the model runs.
        many: optimise a .onnx file for many images instead of for a quick first answer; see `OnnxModel.open`.
        in_background: return before the network is loaded, where that is possible, so that images can be read
            meanwhile. Most of the errors below are then raised by the first prediction.
        batch_size: of these predictions, if it is known; None: as many as suit the device.

    Raises:
        ArtefactError: there is no model, or it is damaged, not written by cnn-tl, or newer than this version.
        ResourceError: the device is not available, or torch is needed and not installed.
        UsageError: a .onnx file was to run on another device than the CPU.
    """
    path = Path(source)
    return _from_onnx(path, device, many) if is_onnx(path) else _from_bundle(path, device, in_background, batch_size)


def digest(source: str | Path) -> str:
    """Return a SHA-256 that identifies the model, over everything that `load` would read.

    Raises:
        ArtefactError: there is no model.
    """
    path = Path(source)
    if not is_onnx(path):
        path = bundle.find(path) / CHECKSUMS  # holds the digests of all other files
    try:
        return sha256_file(path)
    except OSError as error:
        raise ArtefactError(f"{printable(path)} cannot be read: {error.strerror}") from error


def is_onnx(path: Path) -> bool:
    """Say whether a path names an ONNX file, by its suffix; the file need not exist."""
    return path.suffix.lower() == ".onnx" and not path.is_dir()


def _from_bundle(path: Path, device: DeviceName, in_background: bool, batch_size: int | None) -> Classifier:
    folder = bundle.find(path)  # a wrong path fails before the seconds that importing torch takes
    if not may_be_gpu(device):
        stored = bundle.read(folder)
        if stored.graph is not None:
            return _classifier(stored, HeadedEngine.of(stored, with_distance=True), BATCH_SIZE)
    refuse_without_torch(f"device {device}" if may_be_gpu(device) else "a model without graph.onnx")
    on_cuda = will_be_cuda(device)
    if on_cuda:
        begin_loading(device)
    if in_background and on_cuda is not None:
        with suppress(ArtefactError):  # loading says what is wrong, after a look at the checksums
            about = bundle.describe(folder)
            size = batch_size or (cuda_batch_size(about.preprocessing) if on_cuda else BATCH_SIZE)
            engine = LoadingEngine(lambda: _warm(_load(folder, device)[1], size))
            return _classifier(about, engine, size)
    about, loaded = _load(folder, device)
    return _classifier(about, loaded, cuda_batch_size(about.preprocessing) if loaded.is_asynchronous else BATCH_SIZE)


def _classifier(about: bundle.Description, engine: AnyEngine | LoadingEngine, batch_size: int) -> Classifier:
    return Classifier(
        about.classes, about.preprocessing, engine.outputs, about.majority_class, engine, batch_size, about.evidence
    )


def _warm(engine: AnyEngine, size: int) -> AnyEngine:
    engine.warm_up(size)
    return engine


def _load(folder: Path, device: DeviceName) -> tuple[bundle.Description, AnyEngine]:
    """Load a bundle where torch finds out whether there is a GPU; on a CPU torch runs it only if it has no graph."""
    require_torch()
    from cnn_tl.features.engine import Engine
    from cnn_tl.networks.backbone import keep_classifier_in_fp32, place
    from cnn_tl.networks.distance_column import add_distance

    chosen = pick_device(device)
    if chosen.type == "cpu" and (stored := bundle.read(folder)).graph is not None:
        return stored, HeadedEngine.of(stored, with_distance=True)
    trained = bundle.load(folder)
    precision = inference_precision(chosen, trained.precision)
    if trained.evidence is not None and trained.evidence.distance is not None:
        add_distance(trained.model, trained.evidence.distance)
    with fp32_switches_restored():
        model = place(trained.model, chosen)
    if precision == "bf16":
        keep_classifier_in_fp32(model)
    return trained, Engine(model, trained.preprocessing, chosen, precision, alone=chosen.type == "cpu")


def _from_onnx(path: Path, device: DeviceName, many: bool) -> Classifier:
    if device not in ("auto", "cpu"):
        raise UsageError(f"{printable(path)} runs on the CPU; for --device {device} name the run folder")
    from cnn_tl.networks.onnx_model import OnnxModel

    model = OnnxModel.open(path, many=many)

    def outputs(pixels: Pixels) -> Outputs:
        return model(pixels if model.inside else transforms.normalise(pixels, model.preprocessing))

    majority_class = model.facts.get("majority_class")
    return Classifier(model.classes, model.preprocessing, outputs, majority_class, thresholds=model.thresholds)
