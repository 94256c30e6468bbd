"""The stages of a benchmark; running one returns the seconds that it took."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import Precision
from cnn_tl.core.errors import DataError, DivergedError
from cnn_tl.data.loader import Batch, Pixels, batches, reading
from cnn_tl.data.views import transforms
from cnn_tl.recipe.defaults import HEAD_DEFAULTS
from cnn_tl.training.step import precision as training_precision

if TYPE_CHECKING:
    import torch

    from cnn_tl.networks.backbone import Network

BATCH_SIZE = 32
STEPS = 3
"""Fine-tuning steps in a round."""


@dataclass(frozen=True)
class Stage:
    """One stage of the benchmark.

    Attributes:
        run: runs it and returns the seconds.
        images: how many images a run processes; None if it does not work image by image.
        floor: the name of the stage that does nothing but the forward pass of this one; None if there is none.
    """

    name: str
    run: Callable[[], float]
    images: int | None = None
    floor: str | None = None


@dataclass
class Workload:
    """What the stages work on.

    Attributes:
        files, labels: the images and the indices of their classes.
        pixels: the first batch, preprocessed, uint8 [N, H, W, 3].
        features_ND: the features of all images, once `embed` has run.
    """

    network: Network
    device: torch.device
    files: list[Path]
    labels: NDArray[np.int64]
    pixels: Pixels
    features_ND: NDArray[np.float32] | None = None  # noqa: N815 - the shape is part of the name

    @classmethod
    def of(cls, network: Network, device: torch.device, images: Sequence[tuple[Path, int]]) -> Workload:
        """Read the first batch of the images.

        Raises:
            DataError: none of the batch can be read.
        """
        files = [path for path, _ in images]
        read = partial(transforms.read_pixels, spec=network.preprocessing)
        first = next(batches(files, read, batch_size=BATCH_SIZE, workers=default_workers()))
        if not first.items:
            raise DataError(str(first.failures[0][1]))
        return cls(network, device, files, np.array([label for _, label in images]), first.pixels)

    def read(self, path: Path) -> Pixels:
        """Return one preprocessed image, uint8 [H, W, 3]."""
        return transforms.read_pixels(path, self.network.preprocessing)

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def stages_of(work: Workload, precision: Precision) -> list[Stage]:
    """Return the stages in the order in which they run; `precision` is that of embedding, measured beside fp32."""
    count = len(work.files)
    precisions: list[Precision] = ["fp32"] if precision == "fp32" else ["fp32", precision]
    return [
        Stage("imports", import_torch),
        Stage("decode", partial(decode, work), count),
        *(Stage(f"forward pass, {each}", partial(forward, work, each), count) for each in precisions),
        *(
            Stage(f"embedding, {each}", partial(embed, work, each), count, floor=f"forward pass, {each}")
            for each in precisions
        ),
        Stage("head fit, lbfgs", partial(fit_head, work)),
        Stage("fine-tuning step", partial(fine_tune, work), STEPS * BATCH_SIZE),
    ]


def import_torch() -> float:
    """Import torch and timm in a new process, as every command that runs a network does."""
    started = time.perf_counter()
    code = "from cnn_tl.core.imports import require_torch; require_torch()"
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - started


def decode(work: Workload) -> float:
    """Read and preprocess all images, with one thread per core."""
    started = time.perf_counter()
    for batch in batches(work.files, work.read, batch_size=BATCH_SIZE, workers=default_workers()):
        _refuse_failures(batch)
    return time.perf_counter() - started


def forward(work: Workload, precision: Precision) -> float:
    """Run one batch that is on the device already through the network, as often as all images would take: the floor."""
    import torch

    from cnn_tl.core.device import autocast
    from cnn_tl.networks.backbone import place, to_input, without_classifier

    model = place(work.network.model, work.device).eval()
    x_NCHW = to_input(work.pixels, work.network.preprocessing, work.device)
    passes = -(-len(work.files) // len(x_NCHW))
    with without_classifier(model), torch.inference_mode(), autocast(work.device, precision):
        model(x_NCHW)
        work.synchronize()
        started = time.perf_counter()
        for _ in range(passes):
            model(x_NCHW)
        work.synchronize()
    return (time.perf_counter() - started) * len(work.files) / (passes * len(x_NCHW))


def embed(work: Workload, precision: Precision) -> float:
    """Turn files into features as mode freeze does, but neither compiled nor cached."""
    from cnn_tl.features.embedding import embedder
    from cnn_tl.features.engine import stream

    def groups() -> Iterator[list[Path]]:
        source = iter(work.files)
        return iter(lambda: list(islice(source, BATCH_SIZE)), [])

    rows = []
    started = time.perf_counter()
    with (
        reading(groups(), work.read, workers=default_workers(), ahead=2) as read,
        embedder(work.network, work.device, precision, batch_size=BATCH_SIZE) as frozen,
    ):
        for batch, features_ND in stream(frozen, read):
            _refuse_failures(batch)
            rows.append(features_ND)
    seconds = time.perf_counter() - started
    work.features_ND = np.concatenate(rows)
    return seconds


def fit_head(work: Workload) -> float:
    """Fit a head on the features of the latest embedding."""
    from cnn_tl.heads import HEADS, Problem

    assert work.features_ND is not None, "embedding comes first"
    classes = int(work.labels.max()) + 1
    problem = Problem([work.features_ND], work.labels, classes, np.ones(classes), seed=0, check=lambda: None)
    started = time.perf_counter()
    HEADS["lbfgs"](problem, HEAD_DEFAULTS["lbfgs"])
    return time.perf_counter() - started


def fine_tune(work: Workload) -> float:
    """Make a few updates of the whole network, in the precision that fine-tuning would use here.

    Raises:
        DivergedError: the loss is not finite.
    """
    import torch
    import torch.nn.functional as F

    from cnn_tl.core.device import autocast
    from cnn_tl.networks import freeze_policies
    from cnn_tl.networks.backbone import place, to_input

    model = place(work.network.model, work.device)
    freeze_policies.apply(model, "all")
    freeze_policies.train_mode(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    labels_N = torch.from_numpy(work.labels[: len(work.pixels)]).to(work.device)
    precision = training_precision.find(work.network, work.device)
    for step in range(STEPS + 1):
        if step == 1:  # step 0 warms up
            work.synchronize()
            started = time.perf_counter()
        x_NCHW = to_input(work.pixels, work.network.preprocessing, work.device)
        with autocast(work.device, precision):
            logits_NK = model(x_NCHW)
        loss = F.cross_entropy(logits_NK.float(), labels_N)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if not loss.isfinite():
            raise DivergedError("the loss of random weights is not finite, so a fine-tuning step cannot be timed")
        optimizer.step()
    work.synchronize()
    return (time.perf_counter() - started) * BATCH_SIZE / len(work.pixels)


def _refuse_failures(batch: Batch[Path]) -> None:
    if batch.failures:
        raise DataError(str(batch.failures[0][1]))
