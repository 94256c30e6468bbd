"""How fast this machine is, stage by stage, in one run: the measurements behind every claim about speed.

Each stage runs once in each round, so that whatever else the machine does hits all of them alike, and the median of the
rounds counts. The floor is the bare forward pass: ready tensors through the network, and nothing else.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import DeviceName, Precision, fp32_switches_restored, has_fast_bf16, pick_device
from cnn_tl.core.errors import DataError, DivergedError
from cnn_tl.core.imports import require_torch
from cnn_tl.core.progress import Observer
from cnn_tl.data.folders.scan import scan
from cnn_tl.data.loader import Batch, batches, reading
from cnn_tl.data.views import transforms
from cnn_tl.features import speed
from cnn_tl.recipe.defaults import HEAD_DEFAULTS
from cnn_tl.recipe.sections import Model
from cnn_tl.training.step import precision as number_format

if TYPE_CHECKING:
    import torch

    from cnn_tl.networks.backbone import Network

Pixels = NDArray[np.uint8]

ROUNDS = 3
BATCH_SIZE = 32
STEPS = 3
"""Fine-tuning steps in a round."""

SAMPLE_CLASSES = 4
DEFAULT_MODEL = str(Model.model_fields["name"].default)


@dataclass(frozen=True)
class Measured:
    """One stage.

    Attributes:
        stage: what was measured.
        images: how many pass in one round; None for what is not done by the image.
        images_per_second: how many of them pass in a second.
        seconds: of one round.
        of_floor: images_per_second as a share of the floor's in the same number format; None if they do not compare.
    """

    stage: str
    images: int | None
    images_per_second: float | None
    seconds: float
    of_floor: float | None = None


@dataclass(frozen=True)
class Report:
    """A benchmark.

    Attributes:
        data: what was measured on. images: how many of it. model, device: in words.
        precision: the number format that training images would get here.
        load: the machine's load average before the benchmark began, None where there is none.
    """

    data: str
    images: int
    model: str
    device: str
    precision: str
    load: float | None
    stages: tuple[Measured, ...]

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
) -> Report:
    """Measure decoding, the bare forward pass, embedding, a head's fit and a fine-tuning step.

    Args:
        data: class folders; by default crops of the two photographs that come with scikit-learn.
        model: a timm model; its weights are random, which makes no difference to speed.
        images: how many are used; with fewer in the folder they are used again.

    Raises:
        UsageError: unknown model. DataError: an unusable folder. ResourceError: the device is not there.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    observer = observer or Observer()
    with fp32_switches_restored(), _images(data) as (root, name):
        manifest = scan(Path(root), seed=0, val_fraction=0.2)
        require_torch()
        chosen = pick_device(device)
        bench = _Bench(_network(model, len(manifest.classes)), chosen)
        found = [(manifest.file(image), image.label) for image in manifest.images]
        bench.take([found[index % len(found)] for index in range(images)])
        stages = bench.run(observer)
        return Report(name, images, model, speed.describe(chosen), bench.precision, load, stages)


class _Bench:
    """The stages, each a function to the seconds that it took."""

    def __init__(self, network: Network, device: torch.device) -> None:
        self.network, self.device = network, device
        formats: list[Precision] = ["fp32", "bf16"] if has_fast_bf16(device) else ["fp32"]
        speeds = speed.measure(network, device, precisions=formats)
        self.precision = speed.choose_precision(speeds, "auto")
        self.files: list[Path] = []
        self.labels: NDArray[np.int64] = np.zeros(0, np.int64)

    def take(self, images: Sequence[tuple[Path, int]]) -> None:
        """Measure on these files; the first batch of them serves the bare passes."""
        self.files = [path for path, _ in images]
        self.labels = np.array([label for _, label in images])
        first = next(batches(self.files, self._read, batch_size=BATCH_SIZE, workers=default_workers()))
        if not first.items:
            raise DataError(str(first.failures[0][1]))
        self._pixels = first.pixels

    def run(self, observer: Observer) -> tuple[Measured, ...]:
        formats: list[Precision] = ["fp32"] if self.precision == "fp32" else ["fp32", self.precision]
        stages: dict[str, Callable[[], float]] = {
            "imports": _imports,
            "decode": self._decode,
            **{f"forward pass, {precision}": partial(self._forward, precision) for precision in formats},
            **{f"embedding, {precision}": partial(self._embed, precision) for precision in formats},
            "head fit, lbfgs": self._fit,
            "fine-tuning step": self._step,
        }
        seconds: dict[str, list[float]] = {name: [] for name in stages}
        with observer.task("measuring", ROUNDS * len(stages), "stages"):
            for _ in range(ROUNDS):
                for name, stage in stages.items():
                    seconds[name].append(stage())
                    observer.advance(1)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        return tuple(self._measured(name, medians) for name in stages)

    def _measured(self, name: str, medians: dict[str, float]) -> Measured:
        count = {"imports": None, "head fit, lbfgs": None, "fine-tuning step": STEPS * BATCH_SIZE}
        images = count.get(name, len(self.files))
        rate = None if images is None else round(images / medians[name], 1)
        floor = medians.get(f"forward pass, {name.rpartition(', ')[2]}")
        of_floor = round(floor / medians[name], 3) if name.startswith("embedding") and floor else None
        return Measured(name, images, rate, round(medians[name], 4), of_floor)

    def _read(self, path: Path) -> Pixels:
        return transforms.read_pixels(path, self.network.preprocessing)

    def _groups(self) -> Iterator[list[Path]]:
        source = iter(self.files)
        return iter(lambda: list(islice(source, BATCH_SIZE)), [])

    def _decode(self) -> float:
        started = time.perf_counter()
        for batch in batches(self.files, self._read, batch_size=BATCH_SIZE, workers=default_workers()):
            _refuse_failures(batch)
        return time.perf_counter() - started

    def _forward(self, precision: Precision) -> float:
        """Send ready tensors through the network: the floor."""
        import torch

        from cnn_tl.core.device import autocast
        from cnn_tl.networks.backbone import place, to_input, without_classifier

        model = place(self.network.model, self.device).eval()
        x_NCHW = to_input(self._pixels, self.network.preprocessing, self.device)
        passes = -(-len(self.files) // len(x_NCHW))
        with without_classifier(model), torch.inference_mode(), autocast(self.device, precision):
            model(x_NCHW)
            self._wait()
            started = time.perf_counter()
            for _ in range(passes):
                model(x_NCHW)
            self._wait()
        return (time.perf_counter() - started) * len(self.files) / (passes * len(x_NCHW))

    def _embed(self, precision: Precision) -> float:
        """Go from files to features with mode `freeze`'s readers and embedder, neither compiled nor cached."""
        from cnn_tl.features.embedding import embedder, stream

        rows = []
        started = time.perf_counter()
        with (
            reading(self._groups(), self._read, workers=default_workers(), ahead=2) as read,
            embedder(self.network, self.device, precision, batch_size=BATCH_SIZE) as frozen,
        ):
            for batch, features_ND in stream(frozen, read):
                _refuse_failures(batch)
                rows.append(features_ND)
        seconds = time.perf_counter() - started
        self._features_ND = np.concatenate(rows)
        return seconds

    def _fit(self) -> float:
        from cnn_tl.heads import HEADS, Problem

        classes = int(self.labels.max()) + 1
        problem = Problem([self._features_ND], self.labels, classes, np.ones(classes), seed=0, check=lambda: None)
        started = time.perf_counter()
        HEADS["lbfgs"](problem, HEAD_DEFAULTS["lbfgs"])
        return time.perf_counter() - started

    def _step(self) -> float:
        """Make a few updates of the whole network, in the number format that fine-tuning would take here."""
        import torch
        import torch.nn.functional as F

        from cnn_tl.core.device import autocast
        from cnn_tl.networks import freeze
        from cnn_tl.networks.backbone import place, to_input

        model = place(self.network.model, self.device)
        freeze.apply(model, "all")
        freeze.train_mode(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        labels_N = torch.from_numpy(self.labels[: len(self._pixels)]).to(self.device)
        precision = number_format.find(self.network, self.device)
        for step in range(STEPS + 1):
            if step == 1:  # the first one warms up
                self._wait()
                started = time.perf_counter()
            x_NCHW = to_input(self._pixels, self.network.preprocessing, self.device)
            with autocast(self.device, precision):
                logits_NK = model(x_NCHW)
            loss = F.cross_entropy(logits_NK.float(), labels_N)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if not loss.isfinite():
                raise DivergedError("the loss of random weights is not finite, so a fine-tuning step cannot be timed")
            optimizer.step()
        self._wait()
        return (time.perf_counter() - started) * BATCH_SIZE / len(self._pixels)

    def _wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _imports() -> float:
    """Load torch and timm in a process of its own, as every command that runs a network does."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "from cnn_tl.core.imports import require_torch; require_torch()"], check=True)
    return time.perf_counter() - started


def _network(model: str, num_classes: int) -> Network:
    from cnn_tl.networks import backbone
    from cnn_tl.networks.pretrained import weights

    source = weights.locate(model, pretrained=False)
    return backbone.build(model, source, num_classes=num_classes, image_size=None, seed=0)


def _refuse_failures(batch: Batch[Path]) -> None:
    if batch.failures:
        raise DataError(str(batch.failures[0][1]))


@contextmanager
def _images(data: Path | str | None) -> Iterator[tuple[Path, str]]:
    """Yield the folder to measure on, and its name."""
    if data is not None:
        yield Path(data), str(data)
        return
    with tempfile.TemporaryDirectory(prefix="cnn-tl-benchmark-") as folder:
        _write_crops(Path(folder))
        yield Path(folder), "crops of two photographs, 500 x 375 px"


def _write_crops(root: Path) -> None:
    """Write JPEG crops of scikit-learn's two photographs, of the size of an ordinary data set's images."""
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
