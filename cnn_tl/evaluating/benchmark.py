"""`cnn-tl benchmark`: how fast this machine runs each stage of training, in half a minute.

The time is divided over the stages, in proportion to their weights; what one does not use, the later ones have. A slow
machine measures fewer images, and says so. Some stages are the upper limit of others: a bare forward pass of embedding,
a step on tensors that are on the device already of a training step from images.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core.device import DeviceName, fp32_switches_restored, inference_precision
from cnn_tl.core.imports import refuse_without_torch, require_torch
from cnn_tl.core.progress import Observer
from cnn_tl.evaluating.benchmark_sample import sampled
from cnn_tl.evaluating.benchmark_verdict import verdict
from cnn_tl.features.devices import describe
from cnn_tl.recipe.schema import Model

if TYPE_CHECKING:
    from cnn_tl.evaluating.benchmark_stages import Measured, Stage

SECONDS = 22.0
"""Duration of the whole benchmark, imports included; a stage that has begun may take a little longer."""

LEAST_SHARE = 0.02
"""With less than this share of its weight, a stage is left out."""

PACE = 1.0
"""Seconds of a stage for each unit of its weight, while there is enough time."""

DEFAULT_MODEL = str(Model.model_fields["name"].default)


@dataclass(frozen=True)
class StageSpeed:
    """The speed of one stage.

    Attributes:
        stage: its name.
        images: how many images were processed; None for a stage that does not work image by image.
        images_per_second: None likewise.
        seconds: how long that took; None if the stage could not be measured.
        of_floor: speed as a share of `floor`; None if not comparable.
        value, unit: the figure in the unit of the stage: img/s, views/s, GB/s or s.
        floor: the name of the stage that is the upper limit of this one.
        note: what to know about the figure, or why there is none.
    """

    stage: str
    images: int | None
    images_per_second: float | None
    seconds: float | None
    of_floor: float | None = None
    value: float | None = None
    unit: str = "img/s"
    floor: str | None = None
    note: str = ""


@dataclass(frozen=True)
class BenchmarkReport:
    """The result of a benchmark.

    Attributes:
        data: what it ran on. images: how many different images. model, device: by name.
        precision: in which `train` would embed images on this machine. step: batch size and precision of its steps.
        load: the machine's load average before the benchmark; None where the system has none.
        unreadable: how many images could not be read, and were left out.
        verdict: what limits training and mode freeze on this machine, and what to do about it, one sentence each.
    """

    data: str
    images: int
    model: str
    device: str
    precision: str
    load: float | None
    stages: tuple[StageSpeed, ...]
    step: str = ""
    unreadable: int = 0
    verdict: tuple[str, ...] = ()

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
    """Measure decoding, the bare forward pass, embedding, fitting a head, random views and training steps.

    Args:
        data: class folders; by default crops of the two photographs that come with scikit-learn.
        model: a timm model; its weights are random, which makes no difference to speed.
        images: how many images of the folder to use; stages that need more use them again.

    Raises:
        UsageError: there is no such model.
        DataError: the folder holds no usable images.
        ResourceError: the device is not available.
    """
    refuse_without_torch("the benchmark")
    ends = time.monotonic() + SECONDS
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    observer = observer or Observer()
    with fp32_switches_restored(), sampled(data, images) as sample:
        imports = _import_torch()
        from cnn_tl.evaluating import benchmark_stages, benchmark_training

        with benchmark_training.training(sample.manifest, model, device) as training:
            work = training.work
            precision = inference_precision(work.device, "auto")
            planned = [
                *benchmark_stages.reading_stages(work),
                *benchmark_stages.network_stages(work, precision),
                *benchmark_training.training_stages(training),
                benchmark_stages.head_stage(work),
            ]
            stages = (*imports, *_run(planned, ends, observer))
        return BenchmarkReport(
            sample.name,
            len(sample.manifest.images),
            model,
            describe(work.device),
            precision,
            load,
            stages,
            f"batches of {training.batch_size} in {training.precision}",
            len(work.broken),
            verdict(stages, benchmark_stages.engine_name(work, precision), work.device.type),
        )


def _import_torch() -> list[StageSpeed]:
    """Import torch and timm, and return how long that took; nothing if they were there already."""
    known, started = "torch" in sys.modules, time.perf_counter()
    require_torch("the benchmark")
    seconds = round(time.perf_counter() - started, 2)
    return [] if known else [StageSpeed("imports of torch and timm", None, None, seconds, value=seconds, unit="s")]


def _run(
    stages: Sequence[Stage], ends: float, observer: Observer, clock: Callable[[], float] = time.monotonic
) -> list[StageSpeed]:
    """Run all stages in turn, each with its share of the time that is left."""
    from cnn_tl.evaluating.benchmark_stages import NotMeasuredError

    found: dict[str, StageSpeed] = {}
    with observer.task("measuring", len(stages), "stages"):
        for number, stage in enumerate(stages):
            weight = sum(later.weight for later in stages[number:])
            seconds = stage.weight * min(PACE, max(0.0, ends - clock()) / weight)
            try:
                if seconds < LEAST_SHARE * stage.weight:
                    raise NotMeasuredError("no time left")
                found[stage.name] = _speed(stage, stage.run(seconds), found)
            except NotMeasuredError as error:
                found[stage.name] = StageSpeed(stage.name, None, None, None, unit=stage.unit, note=f"{error}")
            observer.advance(1)
    return list(found.values())


def _speed(stage: Stage, done: Measured, found: dict[str, StageSpeed]) -> StageSpeed:
    value = done.seconds if stage.unit == "s" else done.amount / _FACTORS.get(stage.unit, 1) / done.seconds
    rate = round(done.amount / done.seconds, 1) if stage.unit == "img/s" else None
    floor = found[stage.floor].value if stage.floor else None
    return StageSpeed(
        stage.name,
        done.images,
        rate,
        round(done.seconds, 4),
        round(value / floor, 3) if floor else None,
        float(f"{value:.4g}"),
        stage.unit,
        stage.floor,
        done.note,
    )


_FACTORS = {"GB/s": 1e9}
"""Unit -> amount that it counts."""
