"""The stages of a benchmark that read images and run a frozen network; those of training are in `benchmark_training`.

Each stage is given a number of seconds, and measures as much as fits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import Precision, autocast
from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.core.formatting import duration
from cnn_tl.data.loader import Batch, reading
from cnn_tl.data.manifest import ImageRecord, Manifest
from cnn_tl.data.reading.ahead import MEMORY, by_processes, decoding
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels
from cnn_tl.features.devices import noise
from cnn_tl.recipe.defaults import HEAD_DEFAULTS

if TYPE_CHECKING:
    import torch

    from cnn_tl.core.preprocessing import Preprocessing
    from cnn_tl.features.onnx_engine import OnnxEngine
    from cnn_tl.networks.backbone import Network

READ_AT_ONCE, AHEAD = 16, 2
"""Images in a group that threads or processes read, and how many groups they are in advance."""

MANY = 10**6
"""Images of a run that is large enough for processes."""

FEATURES_OF_HEAD = 512
"""Rows of the problem whose fit is timed: the first features that were embedded, repeated if they are fewer."""


@dataclass(frozen=True)
class Measured:
    """What a stage has done.

    Attributes:
        amount: images, views or bytes; 0 for a stage that is a duration.
        seconds: how long it took.
        images: how many images it processed; None if it does not work image by image.
        note: what the user should know about the figure.
    """

    amount: float
    seconds: float
    images: int | None = None
    note: str = ""


class NotMeasuredError(Exception):
    """The stage cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Stage:
    """One stage of the benchmark.

    Attributes:
        unit: "img/s", "views/s", "GB/s" or "s".
        weight: the most seconds it may take; a slow machine divides fewer among the stages, in proportion.
        run: measures for about this many seconds, at least one image or step.
        floor: the name of the stage that does only a part of this one, and is therefore its upper limit.
    """

    name: str
    unit: str
    weight: float
    run: Callable[[float], Measured]
    floor: str | None = None


@dataclass
class Workload:
    """What the stages work on.

    Attributes:
        manifest: the sample.
        readable, broken: images that an earlier stage could read, or not, with the reason.
        seconds_per_image: of the bare forward pass, by precision, once measured.
        decode_seconds: of one image on one thread, once measured.
        features_ND: features of images, once embedded, and their labels.
        onnx: the engine of mode freeze on a CPU; None: torch computes features.
        frozen_seconds: of one image in that engine, or in torch, once measured.
    """

    network: Network
    device: torch.device
    manifest: Manifest
    batch_size: int
    readable: dict[ImageRecord, None] = field(default_factory=dict)
    broken: dict[ImageRecord, BadImageError] = field(default_factory=dict)
    seconds_per_image: dict[Precision, float] = field(default_factory=dict)
    decode_seconds: float = 0.01
    onnx: OnnxEngine | None = None
    frozen_seconds: float | None = None
    features_ND: NDArray[np.float32] | None = None  # noqa: N815 - the shape is part of the name
    labels_N: NDArray[np.int64] | None = None  # noqa: N815

    @property
    def spec(self) -> Preprocessing:
        """How images are preprocessed."""
        return self.network.preprocessing

    def endless(self) -> Iterator[ImageRecord]:
        """Yield the images that are not known to be broken, again and again.

        Raises:
            DataError: all of them are broken.
        """
        while True:
            usable = [image for image in self.manifest.images if image not in self.broken]
            if not usable:
                raise DataError(str(next(iter(self.broken.values()))))
            yield from usable

    def job_of(self, image: ImageRecord) -> Job:
        """Return the job that reads an image as `predict` does, uint8 [H, W, 3]."""
        return PlainPixels(ImageFile(self.manifest.file(image), image), self.spec)

    def groups(self, size: int, ends: float) -> Iterator[list[ImageRecord]]:
        """Yield groups of images until the time has come, by `time.perf_counter`; at least one."""
        source = self.endless()
        while True:
            yield list(itertools.islice(source, size))
            if time.perf_counter() > ends:
                return

    def ahead(self, seconds: float, workers: int) -> int:
        """Return how many images may be read in advance so that they take about half of `seconds`."""
        return max(1, int(seconds * max(1, workers) / (2 * self.decode_seconds)))

    def group_size(self, most: int, seconds: float, workers: int) -> int:
        """Return the size of the groups that threads read, of which some are in advance."""
        return max(1, min(most, self.ahead(seconds, workers) // (AHEAD + 1)))

    @contextmanager
    def decoding(self, size: int, seconds: float) -> Iterator[Iterator[Batch[ImageRecord]]]:
        """Yield batches of about this size, for about this time, read by processes or threads as in a large run."""
        workers = default_workers()
        fit = self.group_size(size, seconds, workers)
        memory = min(MEMORY, self.ahead(seconds, workers) * 3 * self.spec.height * self.spec.width)
        groups = self.groups(fit, time.perf_counter() + seconds)
        with decoding(groups, self.job_of, workers=workers, images=MANY, ahead=AHEAD, memory=memory) as batches:
            yield batches

    def note_of(self, batch: Batch[ImageRecord]) -> None:
        """Note which images of a batch can be read."""
        self.readable.update(dict.fromkeys(batch.items))
        self.broken.update(batch.failures)


def reading_stages(work: Workload) -> list[Stage]:
    """Return the stages that decode images, the slowest way first."""
    workers = default_workers()
    stages = [Stage("decode, 1 thread", "img/s", 1.0, partial(decode, work, workers=0))]
    if workers > 1:
        stages.append(Stage(f"decode, {workers} threads", "img/s", 1.5, partial(decode, work, workers=workers)))
    if by_processes(workers, MANY):
        stages.append(Stage(f"decode, {workers} processes", "img/s", 2.0, partial(decode_by_processes, work)))
    return stages


def network_stages(work: Workload, precision: Precision) -> list[Stage]:
    """Return the bare forward passes, which the stages of training and of mode freeze need to know, and embedding.

    On a CPU mode freeze runs in onnxruntime, as far as that can run the network.
    """
    stages = [Stage(f"forward pass, {precision}", "img/s", 1.0, partial(forward, work, precision))]
    name = engine_name(work, precision)
    if work.onnx is not None:
        stages.append(Stage(f"forward pass, {name}", "img/s", 1.0, partial(forward_onnx, work, work.onnx)))
    embedding = Stage(f"embedding, {name}", "img/s", 2.0, partial(embed, work, precision), f"forward pass, {name}")
    return [*stages, embedding]


def engine_name(work: Workload, precision: Precision) -> str:
    """Return what computes features, in the names of the stages."""
    return precision if work.onnx is None else "onnxruntime"


def head_stage(work: Workload) -> Stage:
    """Return the fit of a head on the features."""
    return Stage("head fit, lbfgs", "s", 2.0, partial(fit_head, work))


def decode(work: Workload, seconds: float, *, workers: int) -> Measured:
    """Read and preprocess images with this many threads; 0: the main thread reads them.

    Raises:
        DataError: no image can be read.
    """
    groups = work.groups(
        work.group_size(READ_AT_ONCE, seconds, workers) if workers else 1, time.perf_counter() + seconds
    )
    ahead = AHEAD if workers else 0
    with reading(groups, lambda image: work.job_of(image).run(), workers=workers, ahead=ahead) as batches:
        found = measured(arrivals_of(work, batches))
    if not found.images:
        raise DataError(str(next(iter(work.broken.values()))))
    if not workers:
        work.decode_seconds = found.seconds / found.images
    return found


def decode_by_processes(work: Workload, seconds: float) -> Measured:
    """Read and preprocess images with as many processes as there are cores, once they have started."""
    started = time.perf_counter()
    with work.decoding(READ_AT_ONCE, seconds / 4) as batches:
        arrivals_of(work, batches)
    with work.decoding(READ_AT_ONCE, max(seconds / 4, seconds - (time.perf_counter() - started))) as batches:
        return measured(arrivals_of(work, batches))


def forward(work: Workload, precision: Precision, seconds: float) -> Measured:
    """Run a batch that is on the device already through the network, again and again."""
    import torch

    from cnn_tl.networks.backbone import place, to_input, without_classifier
    from cnn_tl.training.loop.device_limit import seconds_per_step

    model = place(work.network.model, work.device).eval()
    x_NCHW = to_input(noise(work.spec, work.batch_size), work.spec, work.device)
    with without_classifier(model), torch.inference_mode(), autocast(work.device, precision):
        count = work.batch_size
        if work.device.type != "cpu":  # a batch takes hardly longer than an image, but the first one much longer
            seconds_per_step(lambda: model(x_NCHW), work.device, 0)
        else:
            alone = seconds_per_step(lambda: model(x_NCHW[:1]), work.device, seconds / 4)
            count = max(1, min(count, int(seconds / alone / 3)))
        took = seconds_per_step(lambda: model(x_NCHW[:count]), work.device, seconds)
    work.seconds_per_image[precision] = work.frozen_seconds = took / count
    note = "" if count == work.batch_size else f"{count} at a time, not {work.batch_size}"
    return Measured(count, took, count, note)


def forward_onnx(work: Workload, engine: OnnxEngine, seconds: float) -> Measured:
    """Run images of noise through the network in onnxruntime, one on each core."""
    pixels_NHW3 = noise(work.spec, default_workers())
    engine.outputs(pixels_NHW3)
    done, started = 0, time.perf_counter()
    while not done or time.perf_counter() - started < seconds:
        done += len(engine.outputs(pixels_NHW3))
    took = time.perf_counter() - started
    work.frozen_seconds = took / done
    return Measured(done, took, done)


def embed(work: Workload, precision: Precision, seconds: float) -> Measured:
    """Turn files into features as mode freeze does, but none is cached."""
    from cnn_tl.features.embedding import embedder
    from cnn_tl.features.stream import stream

    if work.frozen_seconds is None or work.frozen_seconds * work.batch_size > 2 * seconds:
        raise NotMeasuredError(f"a batch takes over {duration(2 * seconds)}")
    rows: list[NDArray[np.float32]] = []
    labels: list[int] = []

    def embedded() -> Iterator[Batch[ImageRecord]]:
        with (
            work.decoding(work.batch_size, seconds) as read,
            nullcontext(work.onnx) if work.onnx else embedder(work.network, work.device, precision) as frozen,
        ):
            for batch, features_ND in stream(frozen, read):
                rows.append(features_ND)
                labels.extend(image.label for image in batch.items)
                yield batch

    found = measured(arrivals_of(work, embedded()))
    work.features_ND, work.labels_N = np.concatenate(rows), np.array(labels, dtype=np.int64)
    return found


def fit_head(work: Workload, seconds: float) -> Measured:
    """Fit a head on the features of the latest embedding, repeated or cut to a fixed number of rows."""
    from cnn_tl.heads import HEADS, Problem

    if work.features_ND is None or work.labels_N is None:
        raise NotMeasuredError("there are no features")
    ends = time.perf_counter() + 2 * seconds

    def check() -> None:
        if time.perf_counter() > ends:
            raise NotMeasuredError(f"more than {duration(2 * seconds)}")

    features_ND = np.resize(work.features_ND, (FEATURES_OF_HEAD, work.features_ND.shape[1]))
    labels_N = np.resize(work.labels_N, FEATURES_OF_HEAD)
    classes = int(labels_N.max()) + 1
    device = str(work.device)
    problem = Problem([features_ND], labels_N, classes, np.ones(classes), seed=0, check=check, device=device)
    started = time.perf_counter()
    HEADS["lbfgs"](problem, HEAD_DEFAULTS["lbfgs"])
    return Measured(0, time.perf_counter() - started, FEATURES_OF_HEAD)


Arrivals = list[tuple[float, int]]
"""When a batch was ready, by `time.perf_counter`, and how many images it has; first the start, with none."""


def arrivals_of(work: Workload, batches: Iterator[Batch[ImageRecord]]) -> Arrivals:
    """Take all batches, and note when each was ready."""
    found = [(time.perf_counter(), 0)]
    for batch in batches:
        work.note_of(batch)
        found.append((time.perf_counter(), len(batch.items)))
    return found


def measured(arrivals: Arrivals) -> Measured:
    """Return the images between the first and the last batch: before, threads start and nothing is in flight yet."""
    if len(arrivals) > 4:
        arrivals = arrivals[1:]
    images = sum(count for _, count in arrivals[1:])
    return Measured(images, arrivals[-1][0] - arrivals[0][0], images)
