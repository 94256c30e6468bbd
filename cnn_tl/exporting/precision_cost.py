"""What a lower precision costs and saves: accuracy, size and speed compared with the same export in float32."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import ArtefactError, DataError, printable
from cnn_tl.core.formatting import counted, percent
from cnn_tl.core.progress import Observer
from cnn_tl.core.statistics import softmax
from cnn_tl.data.loader import Pixels
from cnn_tl.data.reading.ahead import decoded_batches
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels
from cnn_tl.data.views import transforms
from cnn_tl.exporting.comparison_images import comparison_records, manifest_of
from cnn_tl.exporting.options import Precision
from cnn_tl.exporting.parity import Exported
from cnn_tl.networks.bundle import Description
from cnn_tl.recipe.schema import Export

BATCH_SIZE = 32
FEWEST_ROUNDS, MOST_ROUNDS, ENOUGH_SECONDS = 5, 25, 10.0


@dataclass(frozen=True)
class Lowered:
    """An export in a lower precision, and the export in float32 that it is compared with.

    Attributes:
        export: the written file, read back.
        precision: of that file.
        calibration: what it was calibrated on, in words; empty if it was not.
        original: the same export in float32.
        original_bytes: the size of the original.
    """

    export: Exported
    precision: Precision
    calibration: str
    original: Exported
    original_bytes: int


@dataclass(frozen=True)
class Cost:
    """An export in a lower precision, compared with float32.

    Attributes:
        precision, calibration: as in `Lowered`.
        images: how many validation images both predicted.
        right_before, right_after: how many of them are right; before is float32.
        same_answer: the share of images with the same answer.
        largest_change: of any probability, 0..1.
        bytes_before, bytes_after: sizes of the files.
        speed_before, speed_after: images a second in batches of 32, the models in turn, medians.
        unknown_before, unknown_after: how many of the images lie further away than 1% of known ones; None if the model
            does not measure distances.
    """

    precision: Precision
    calibration: str
    images: int
    right_before: int
    right_after: int
    same_answer: float
    largest_change: float
    bytes_before: int
    bytes_after: int
    speed_before: float
    speed_after: float
    unknown_before: int | None = None
    unknown_after: int | None = None

    @property
    def drop(self) -> float:
        """Points of accuracy lost; negative if accuracy rises."""
        return 100 * (self.right_before - self.right_after) / self.images

    def require(self, bounds: Export) -> None:
        """Refuse a precision that costs more than allowed.

        Raises:
            ArtefactError: it loses more accuracy, changes more answers, or calls more images unknown; the message says
                how much.
        """
        if self.drop > bounds.max_drop + 1e-9:
            raise ArtefactError(
                f"{self.precision} loses {self.drop:.2f} points: {self.right_after:,} instead of {self.right_before:,} "
                f"of {counted(self.images, 'validation image')} are right, and --max-drop {bounds.max_drop:g} "
                f"allows {int(bounds.max_drop * self.images / 100 + 1e-9):,} fewer; no file was written"
            )
        if self.same_answer < bounds.min_agreement - 1e-9:
            raise ArtefactError(
                f"{self.precision} gives the answer of fp32 to {percent(self.same_answer)} of "
                f"{counted(self.images, 'validation image')}, and --min-agreement requires "
                f"{percent(bounds.min_agreement)}; "
                "no file was written"
            )
        if self.unknown_before is None or self.unknown_after is None:
            return
        if self.unknown_after - self.unknown_before > (1 - bounds.min_agreement) * self.images + 1e-9:
            raise ArtefactError(
                f"{self.precision} calls {self.unknown_after:,} of {counted(self.images, 'validation image')} unknown, "
                f"fp32 {self.unknown_before:,}, and --min-agreement {percent(bounds.min_agreement)} allows "
                f"{int((1 - bounds.min_agreement) * self.images + 1e-9):,} more; no file was written"
            )


def measure(trained: Description, lowered: Lowered, size: int, observer: Observer) -> Cost:
    """Run both models on the validation images, then time them in turn.

    Args:
        size: of the file in the lower precision, in bytes.

    Raises:
        DataError: the validation images are not here.
    """
    answers: dict[str, list[NDArray[Any]]] = {"before": [], "after": [], "labels": []}
    ready: Pixels | None = None
    models = {"before": lowered.original, "after": lowered.export}
    manifest = manifest_of(trained.path)
    images = [(manifest.file(image), image.label) for image in comparison_records(manifest)] if manifest else []

    def job_of(labelled: tuple[Path, int]) -> Job:
        return PlainPixels(ImageFile(labelled[0]), trained.preprocessing)

    workers = default_workers()
    with observer.task("measuring", len(images)):
        for batch in decoded_batches(images, job_of, batch_size=BATCH_SIZE, workers=workers, images=len(images)):
            if not batch.items:
                continue
            ready = batch.pixels if ready is None else ready
            answers["labels"].append(np.array([label for _, label in batch.items]))
            for name, model in models.items():
                answers[name].append(_run(model, batch.pixels, trained))
            observer.advance(len(batch.items))
    if ready is None:
        raise DataError(
            f"--precision {lowered.precision} needs the validation images of {printable(trained.path)} to "
            "measure its loss, and they are not here"
        )
    outputs, labels = {name: np.concatenate(answers[name]) for name in models}, np.concatenate(answers["labels"])
    before, after = (softmax(outputs[name][:, : len(trained.classes)]) for name in models)
    with observer.task("timing", None):
        speed_before, speed_after = _speeds(list(models.values()), ready, trained)
    return Cost(
        precision=lowered.precision,
        calibration=lowered.calibration,
        images=len(labels),
        right_before=int((before.argmax(1) == labels).sum()),
        right_after=int((after.argmax(1) == labels).sum()),
        same_answer=float((before.argmax(1) == after.argmax(1)).mean()),
        largest_change=float(np.abs(before - after).max()),
        bytes_before=lowered.original_bytes,
        bytes_after=size,
        speed_before=speed_before,
        speed_after=speed_after,
        **{f"unknown_{name}": _unknown(outputs[name], trained) for name in models},
    )


def _unknown(outputs_NE: NDArray[np.float32], trained: Description) -> int | None:
    """Return how many images are unknown by the default rule; None without distances."""
    if trained.evidence is None or outputs_NE.shape[1] == len(trained.classes):
        return None
    return int((outputs_NE[:, -1] > trained.evidence.most_distance()).sum())


def _run(model: Exported, pixels: Pixels, trained: Description) -> NDArray[np.float32]:
    return model(pixels if model.inside else transforms.normalise(pixels, trained.preprocessing))


def _speeds(models: Sequence[Exported], pixels: Pixels, trained: Description) -> list[float]:
    """Return images a second of each model on a preprocessed batch; the models take turns."""
    ready = pixels[np.arange(BATCH_SIZE) % len(pixels)]
    x = ready if models[0].inside else transforms.normalise(ready, trained.preprocessing)
    seconds: list[list[float]] = [[] for _ in models]
    begin = time.perf_counter()
    for number in range(1 + MOST_ROUNDS):  # round 0 warms up
        if number > FEWEST_ROUNDS and time.perf_counter() - begin > ENOUGH_SECONDS:
            break
        for model, taken in zip(models, seconds, strict=True):
            start = time.perf_counter()
            model(x)
            taken.append(time.perf_counter() - start)
    return [BATCH_SIZE / median(taken[1:]) for taken in seconds]
