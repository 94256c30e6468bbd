"""`cnn-tl benchmark`: how fast this machine runs each stage of training.

Each stage runs once per round, so that other load on the machine affects all stages alike, and the median of the rounds
counts. The floor is the bare forward pass: decoded tensors through the network, without reading or resizing.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_tl.core.device import DeviceName, Precision, fp32_switches_restored, has_fast_bf16, pick_device
from cnn_tl.core.imports import require_torch
from cnn_tl.core.progress import Observer
from cnn_tl.data.folders.scan import scan
from cnn_tl.evaluating.benchmark_stages import Stage, Workload, stages_of
from cnn_tl.features import speed
from cnn_tl.recipe.schema import Model

if TYPE_CHECKING:
    from cnn_tl.networks.backbone import Network

ROUNDS = 3
SAMPLE_CLASSES = 4
DEFAULT_MODEL = str(Model.model_fields["name"].default)


@dataclass(frozen=True)
class StageSpeed:
    """The speed of one stage.

    Attributes:
        stage: its name.
        images: how many images one round processes; None for a stage that does not work image by image.
        images_per_second: None likewise.
        seconds: the median duration of a round.
        of_floor: images_per_second as a share of the bare forward pass in the same precision; None if not comparable.
    """

    stage: str
    images: int | None
    images_per_second: float | None
    seconds: float
    of_floor: float | None = None


@dataclass(frozen=True)
class BenchmarkReport:
    """The result of a benchmark.

    Attributes:
        data: what it ran on. images: how many images. model, device: by name.
        precision: in which `train` would embed images on this machine.
        load: the machine's load average before the benchmark; None where the system has none.
    """

    data: str
    images: int
    model: str
    device: str
    precision: str
    load: float | None
    stages: tuple[StageSpeed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def benchmark(
    data: Path | str | None = None,
    *,
    model: str = DEFAULT_MODEL,
    device: DeviceName = "auto",
    images: int = 256,
    observer: Observer | None = None,
) -> BenchmarkReport:
    """Measure decoding, the bare forward pass, embedding, fitting a head, and a fine-tuning step.

    Args:
        data: class folders; by default crops of the two photographs that come with scikit-learn.
        model: a timm model; its weights are random, which makes no difference to speed.
        images: how many images to use; a folder with fewer is repeated.

    Raises:
        UsageError: there is no such model.
        DataError: the folder holds no usable images.
        ResourceError: the device is not available.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    observer = observer or Observer()
    with fp32_switches_restored(), _images(data) as (root, name):
        manifest = scan(Path(root), seed=0, val_fraction=0.2)
        require_torch()
        chosen = pick_device(device)
        network = _network(model, len(manifest.classes))
        precisions: list[Precision] = ["fp32", "bf16"] if has_fast_bf16(chosen) else ["fp32"]
        precision = speed.choose_precision(speed.measure(network, chosen, precisions=precisions), "auto")
        found = [(manifest.file(image), image.label) for image in manifest.images]
        workload = Workload.of(network, chosen, [found[index % len(found)] for index in range(images)])
        stages = _run(stages_of(workload, precision), observer)
        return BenchmarkReport(name, images, model, speed.describe(chosen), precision, load, stages)


def _run(stages: list[Stage], observer: Observer) -> tuple[StageSpeed, ...]:
    """Run all stages in turn, `ROUNDS` times, and return their speeds."""
    seconds: dict[str, list[float]] = {stage.name: [] for stage in stages}
    with observer.task("measuring", ROUNDS * len(stages), "stages"):
        for _ in range(ROUNDS):
            for stage in stages:
                seconds[stage.name].append(stage.run())
                observer.advance(1)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return tuple(_speed(stage, medians) for stage in stages)


def _speed(stage: Stage, medians: dict[str, float]) -> StageSpeed:
    median = medians[stage.name]
    rate = None if stage.images is None else round(stage.images / median, 1)
    of_floor = None if stage.floor is None else round(medians[stage.floor] / median, 3)
    return StageSpeed(stage.name, stage.images, rate, round(median, 4), of_floor)


def _network(model: str, num_classes: int) -> Network:
    from cnn_tl.networks import backbone
    from cnn_tl.networks.pretrained import weights

    source = weights.locate(model, pretrained=False)
    return backbone.build(model, source, num_classes=num_classes, image_size=None, seed=0)


@contextmanager
def _images(data: Path | str | None) -> Iterator[tuple[Path, str]]:
    """Yield the folder to measure on, and what to call it."""
    if data is not None:
        yield Path(data), str(data)
        return
    with tempfile.TemporaryDirectory(prefix="cnn-tl-benchmark-") as folder:
        _write_crops(Path(folder))
        yield Path(folder), "crops of two photographs, 500 x 375 px"


def _write_crops(root: Path) -> None:
    """Write JPEG crops of scikit-learn's two photographs, as large as the images of an ordinary data set."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    draw = np.random.default_rng(0)
    for number in range(64):
        folder = root / f"class {number % SAMPLE_CLASSES}"
        folder.mkdir(exist_ok=True)
        pixels = photographs[number % len(photographs)]
        top, left = draw.integers(0, pixels.shape[0] - 375), draw.integers(0, pixels.shape[1] - 500)
        Image.fromarray(pixels[top : top + 375, left : left + 500]).save(folder / f"{number}.jpg", quality=90)
