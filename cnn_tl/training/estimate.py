"""Shared by the plans of all modes: the description of the run, and the time its stages take on this machine."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import Precision
from cnn_tl.core.errors import printable
from cnn_tl.core.progress import Plan
from cnn_tl.features.devices import noise
from cnn_tl.heads.auto import choose, lbfgs_seconds, ridge_seconds
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.outcome import DataFacts

Work = TypeVar("Work")

DECODE_SECONDS = 0.004
"""Decoding one image of ordinary size with Pillow on one thread."""

MEASURED_SECONDS = 0.15
"""Duration of a measurement: one pass may hit a moment in which other programs use the cores, or do not."""


@dataclass(frozen=True)
class Planned(Generic[Work]):
    """A mode's plan: `shown` is for the user, `work` is the argument of the mode's `run`."""

    shown: Plan
    work: Work


def description(run: Run, dataset: Dataset, network: LazyNetwork) -> dict[str, Any]:
    """Return the fields of a `Plan` that do not depend on the mode."""
    manifest, info = dataset.manifest, network.info
    corrections = DataFacts.of(manifest)
    return {
        "mode": run.recipe.mode,
        "data": printable(run.recipe.data.path or manifest.root),
        "layout": manifest.layout,
        "counts": manifest.counts(),
        "set_aside": len(manifest.set_aside),
        "backbone": info.name,
        "weights": info.weights,
        "image_size": (info.preprocessing.height, info.preprocessing.width),
        "output": printable(run.folder.path),
        "corrections": None if corrections is None else asdict(corrections),
    }


def fit_seconds(kind: str, images: int, views: int, num_features: int, num_classes: int) -> float:
    """Estimate how many seconds the fit of a linear head takes, from the size of the problem."""
    size = (images, views, num_features, num_classes)
    fitted = choose(*size).kind if kind == "auto" else kind
    ridge = ridge_seconds(*size) if "ridge" in fitted else 0.0
    return ridge if fitted == "ridge" else ridge + lbfgs_seconds(*size)


def seconds_per_image(network: LazyNetwork, precision: Precision, images: int = 4) -> float:
    """Measure forward passes of a batch after a warm-up, for `MEASURED_SECONDS`; return the mean seconds per image.

    If memory does not hold the batch, half of it is measured.
    """
    from cnn_tl.core.device import is_out_of_memory

    while True:
        try:
            return _seconds_per_image(network, precision, images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or images == 1:
                raise
            images //= 2


def onnx_seconds_per_image(network: LazyNetwork, graph: bytes) -> float:
    """Measure the backbone in onnxruntime, an image on each core, after a warm-up; return the seconds per image."""
    engine, pixels_NHW3 = network.onnx_engine(graph), noise(network.info.preprocessing, default_workers())
    engine.outputs(pixels_NHW3)
    started = time.perf_counter()
    engine.outputs(pixels_NHW3)
    return (time.perf_counter() - started) / len(pixels_NHW3)


def _seconds_per_image(network: LazyNetwork, precision: Precision, images: int) -> float:
    import torch

    from cnn_tl.core.device import autocast
    from cnn_tl.networks.backbone import place, to_input

    model = place(network.model, network.device).eval()
    x_NCHW = to_input(noise(network.info.preprocessing, images), network.info.preprocessing, network.device)
    passes = 0
    with torch.inference_mode(), autocast(network.device, precision):
        model(x_NCHW).sum().item()
        started = time.perf_counter()
        while not passes or time.perf_counter() - started < MEASURED_SECONDS:
            model(x_NCHW).sum().item()
            passes += 1
    return (time.perf_counter() - started) / (passes * images)
