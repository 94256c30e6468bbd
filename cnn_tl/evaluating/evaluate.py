"""`cnn-tl evaluate`: a trained model on labelled images, through the very path that predict takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import counted, percent
from cnn_tl.core.progress import Observer
from cnn_tl.core.statistics import softmax, wilson_interval
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.remarks import BlankImages
from cnn_tl.data.views import transforms
from cnn_tl.evaluating import robustness as robust
from cnn_tl.evaluating.labelled import Labelled, find_labelled, images_trained_on, splits_named_in
from cnn_tl.inference.classifier import Classifier, Logits, load

_BINS = 15
"""Bins of the calibration error, as Guo et al. 2017, sec. 2, have them."""

Labelling = tuple[Path, int]


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled images.

    Attributes:
        model, data: as they were named, printable.
        part: the part of the data folder; None where it has no parts.
        trained_on: images that were left out because the model was trained on them; None where that is unknown.
        images, correct: counts. accuracy: top-1. interval: its 95% Wilson score interval.
        baseline: the accuracy of the majority-class baseline, which always answers `baseline_class`.
        baseline_from: where `baseline_class` is the most frequent class: in "training", as in the result of train, or,
            where the model does not say what it was trained on, in the "evaluated" images themselves.
        balanced_accuracy: the mean of the classes' shares of right answers.
        log_loss: the mean negative log of the probability that the right class got, in nats.
        calibration_error: by how much the probability of the answer misses its accuracy, in the mean (Guo et al.
            2017, eq. 3, in 15 bins).
        per_class: class -> its images, how many of them are answered right, how often it is answered in all.
        confusion: images by true class (row) and answer (column), in the order of `classes`.
        unreadable: [file, reason] of images that could not be read, and count nowhere.
        notes: remarks about the folder.
        robustness: one row for each change at each strength; empty where it was not asked for.
    """

    model: str
    data: str
    part: str | None
    trained_on: int | None
    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    baseline: float
    baseline_class: str
    baseline_from: Literal["training", "evaluated"]
    balanced_accuracy: float
    log_loss: float
    calibration_error: float
    classes: tuple[str, ...]
    per_class: dict[str, dict[str, int]]
    confusion: list[list[int]]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()
    robustness: tuple[robust.Row, ...] = field(default=())

    def __repr__(self) -> str:
        """Return such as `<Evaluation runs/photos-freeze on photos: 94.7% of 75 right (87.1% to 97.9%)>`."""
        low, high = map(percent, self.interval)
        shares = f"{percent(self.accuracy)} of {self.images:,} right ({low} to {high})"
        return f"<Evaluation {self.model} on {self.data}: {shares}>"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def confused(self) -> list[tuple[int, str, str]]:
        """Return (images, true class, answer) for each pair of classes that were confused, most frequent first."""
        pairs = [
            (count, self.classes[true], self.classes[answer])
            for true, row in enumerate(self.confusion)
            for answer, count in enumerate(row)
            if count and true != answer
        ]
        return sorted(pairs, key=lambda pair: -pair[0])


def evaluate(
    source: str | Path,
    data: str | Path,
    *,
    part: str | None = None,
    robustness: bool = False,
    limit: int | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    device: DeviceName = "auto",
    observer: Observer | None = None,
) -> Evaluation:
    """Let a trained model answer for labelled images, and count.

    Args:
        source: a run folder, a bundle or a .onnx file.
        data: class folders, or such folders inside train, val and test.
        part: which one is meant; None: test if there is one, else val. Images that the model was trained on are
            left out, where its run folder tells which those are, unless the part train is asked for.
        robustness: answer for each image changed in many ways, too.
        limit: at most so many images, of each class its share.
        batch_size: images that go through the model at once.
        workers: threads that read images; 0: this one does; None means one for each core.

    Raises:
        ArtefactError: there is no model, or it is damaged.
        DataError: no images, none that can be read, or classes that the model does not know.
        UsageError: the folder has no such part.
    """
    observer = observer or Observer()
    threads = default_workers() if workers is None else workers
    with observer.task("loading the model", None):
        model = load(source, device)
    seen = images_trained_on(Path(source))
    named = splits_named_in(Path(source))
    found = find_labelled(Path(data), model.classes, part=part, seen=seen, limit=limit, workers=threads, named=named)
    files = [path for path, _ in found.images]
    observer.note(counted(len(files), "image") + (f", the split {found.part}" if found.part else ""))
    if robustness:
        answers, unreadable, rows = robust.measure(
            model, found.images, batch_size=batch_size, workers=threads, observer=observer
        )
    else:
        answers, unreadable = _answers(model, found.images, batch_size, threads, observer)
        rows = ()
    kept = [one for one in found.images if one[0] not in unreadable]
    return _count(model, found, kept, answers, unreadable, rows, str(source), str(data))


def _answers(
    model: Classifier, images: Sequence[Labelling], batch_size: int, workers: int, observer: Observer
) -> tuple[Logits, dict[Path, str]]:
    """Return the logits [N, K] of the images that can be read, in their order, and why the others cannot."""

    def read(one: Labelling) -> Pixels:
        return transforms.read_pixels(one[0], model.preprocessing)

    rows: list[Logits] = []
    unreadable: dict[Path, str] = {}
    blank = BlankImages()
    with observer.task("evaluating", len(images)):
        for batch in batches(images, read, batch_size=batch_size, workers=workers):
            unreadable |= {path: error.reason for (path, _), error in batch.failures}
            if batch.items:
                rows.append(model.logits(batch.pixels))
            for (path, _), pixels in zip(batch.items, batch.pixels, strict=True):
                blank.check_pixels(str(path), path, pixels)
            observer.advance(len(batch.items) + len(batch.failures))
    for text in blank.remarks():
        observer.warn(text)
    return robust.stacked(rows, len(model.classes)), unreadable


def _count(
    model: Classifier,
    found: Labelled,
    kept: Sequence[Labelling],
    logits_NK: Logits,
    unreadable: dict[Path, str],
    rows: tuple[robust.Row, ...],
    source: str,
    data: str,
) -> Evaluation:
    from sklearn.metrics import confusion_matrix

    if not kept:
        path, reason = next(iter(unreadable.items()))
        raise DataError(f"no image of {printable(data)} can be read, such as {printable(path)}: {reason}")
    labels = np.array([label for _, label in kept])
    probabilities = softmax(logits_NK)
    answers = probabilities.argmax(1)
    confusion = confusion_matrix(labels, answers, labels=np.arange(len(model.classes)))
    sizes, right = confusion.sum(1), confusion.diagonal()
    there = sizes > 0
    correct = int(right.sum())
    majority_class = model.majority_class
    known = majority_class in model.classes
    if majority_class is None or not known:
        majority_class = model.classes[int(sizes.argmax())]
    majority = model.classes.index(majority_class)
    return Evaluation(
        model=printable(source),
        data=printable(data),
        part=found.part,
        trained_on=found.trained_on,
        images=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        interval=wilson_interval(correct, len(labels)),
        baseline=float(sizes[majority] / len(labels)),
        baseline_class=majority_class,
        baseline_from="training" if known else "evaluated",
        balanced_accuracy=float((right[there] / sizes[there]).mean()),
        log_loss=_log_loss(logits_NK, labels),
        calibration_error=_calibration_error(probabilities.max(1), answers == labels),
        classes=model.classes,
        per_class={
            name: {"images": int(sizes[k]), "right": int(right[k]), "answered": int(confusion[:, k].sum())}
            for k, name in enumerate(model.classes)
        },
        confusion=confusion.tolist(),
        unreadable=tuple((printable(path), reason) for path, reason in unreadable.items()),
        notes=found.notes,
        robustness=rows,
    )


def _log_loss(logits_NK: Logits, labels: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy in nats, from the logits: a probability may round to 0, its logarithm does not."""
    from scipy.special import log_softmax

    log_p_NK = log_softmax(logits_NK.astype(np.float64), axis=1)
    return float(-log_p_NK[np.arange(len(labels)), labels].mean())


def _calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error (Guo et al. 2017, eq. 3)."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [abs(float((confidence[bins == b] - right[bins == b]).sum())) for b in range(_BINS)]
    return sum(gaps) / len(right)
