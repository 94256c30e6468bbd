"""`cnn-tl evaluate`: a trained model on labelled images, read and predicted exactly as predict does."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.formatting import counted, percent
from cnn_tl.core.progress import Observer
from cnn_tl.data.data_warnings import blank_image_remarks
from cnn_tl.data.reading.ahead import by_processes, decoded_batches
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels
from cnn_tl.evaluating.abstaining import ChosenRule, abstention_by, choose_rule, unknown_check
from cnn_tl.evaluating.labelled_images import Labelled, find_labelled, training_data_of
from cnn_tl.evaluating.robustness import Predictions, RobustnessRow, predict_changed, stacked
from cnn_tl.inference.classifier import Classifier, Outputs
from cnn_tl.inference.inputs import find
from cnn_tl.inference.loading import load
from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits
from cnn_tl.metrics.figures import Averages, CalibrationBin, ClassFigures, Figures, figures_of
from cnn_tl.metrics.selective import Abstention, Signals


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate.

    Attributes:
        split: train, val or test; None: test if there is one, else val. Images that the model was trained on are left
            out where its run folder lists them, unless the split is train.
        robustness: also evaluate changed images; see `perturbations`.
        limit: evaluate at most this many images, drawn from each class in proportion.
        batch_size: images that go through the model together; None: `Classifier.batch_size`.
        workers: threads or processes that read images; 0: the calling thread; None: one per core.
        device: where the model runs.
        digests: compute the SHA-256 of every image, by which `compare` joins answers.
        max_error: the share of answers that may be wrong, 0 to 1; None: no promise is checked.
        unknown: the share of images like the training ones that may be called unknown; None: 1%.
        unknown_images: a file, folder or pattern of images that show none of the classes; None: none.
    """

    split: str | None = None
    robustness: bool = False
    limit: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    device: DeviceName = "auto"
    digests: bool = False
    max_error: float | None = None
    unknown: float | None = None
    unknown_images: str | Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled images.

    Attributes:
        model, data: as given by the caller, printable.
        split: the split of the data folder; None where it has none.
        trained_on: images that were left out because the model was trained on them; None where that is unknown.
        images, correct: counts. accuracy: top-1. interval: its 95% Wilson score interval.
        baseline: the accuracy of the majority-class baseline, which always answers `baseline_class`.
        baseline_from: where `baseline_class` is the most frequent class: in "training", as in the result of train, or,
            where the model does not say what it was trained on, in the "evaluated" images themselves.
        balanced_accuracy, macro, weighted, top_k, log_loss, calibration_error, calibration, per_class: see `Figures`.
        confusion: images by true class (row) and answer (column), in the order of `classes`.
        unreadable: [file, reason] of images that could not be read and are not counted anywhere.
        notes: remarks about the folder.
        abstention: the error by the share of images answered, promises, sets of classes, and unknown images.
        robustness: one row for each change and strength; empty where it was not asked for.
        figures: all of these figures. answers: what they are made of, image by image.
        source, root: the model and the folder of the images, as they are.
        limit: of the options. None of these five is part of `to_dict`.
    """

    model: str
    data: str
    split: str | None
    trained_on: int | None
    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    baseline: float
    baseline_class: str
    baseline_from: Literal["training", "evaluated"]
    balanced_accuracy: float
    macro: Averages
    weighted: Averages
    top_k: tuple[float, ...]
    log_loss: float
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    classes: tuple[str, ...]
    per_class: dict[str, ClassFigures]
    confusion: list[list[int]]
    unreadable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    abstention: Abstention
    robustness: tuple[RobustnessRow, ...]
    figures: Figures = field(repr=False, compare=False)
    answers: LabelledAnswers = field(repr=False, compare=False)
    source: Path = field(repr=False, compare=False)
    root: Path = field(repr=False, compare=False)
    limit: int | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return such as `<Evaluation runs/photos-freeze on photos: 94.7% of 75 right (87.1% to 97.9%)>`."""
        low, high = map(percent, self.interval)
        shares = f"{percent(self.accuracy)} of {self.images:,} right ({low} to {high})"
        return f"<Evaluation {self.model} on {self.data}: {shares}>"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in _NOT_IN_JSON}
        return {name: _plain(value) for name, value in own.items()}

    def confused(self) -> list[tuple[int, str, str]]:
        """Return (images, true class, answer) for each pair of classes that were confused, most frequent first."""
        names = self.classes
        return [(images, names[label], names[answer]) for images, label, answer in self.figures.confused()]


_NOT_IN_JSON = frozenset({"figures", "answers", "source", "root", "limit"})


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(one) for name, one in vars(value).items()}
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def evaluate(
    source: str | Path,
    data: str | Path,
    options: EvaluationOptions | None = None,
    observer: Observer | None = None,
) -> Evaluation:
    """Evaluate a trained model on labelled images.

    Args:
        source: a run folder, a bundle or a .onnx file.
        data: class folders, or such folders inside train, val and test.

    Raises:
        ArtefactError: there is no model, or it is damaged.
        DataError: there are no images, none can be read, or the model does not know their classes.
        UsageError: the folder has no such split, or the model does not know enough for `max_error` or `unknown`.
    """
    options, observer = options or EvaluationOptions(), observer or Observer()
    workers = default_workers() if options.workers is None else options.workers
    with observer.task("loading the model", None):
        ahead = by_processes(workers, sys.maxsize)
        model = load(source, options.device, in_background=ahead, batch_size=options.batch_size)
    chosen = choose_rule(model, options.max_error, options.unknown)
    foreign_files = [] if options.unknown_images is None else list(find(options.unknown_images))
    labelled = find_labelled(
        Path(data),
        model.classes,
        split=options.split,
        training=training_data_of(Path(source)),
        limit=options.limit,
        workers=workers,
        digests=options.digests,
    )
    observer.note(counted(len(labelled.images), "image") + (f", split {labelled.split}" if labelled.split else ""))
    measure = predict_changed if options.robustness else _predict
    at_once = options.batch_size or model.batch_size
    predictions = measure(model, labelled.images, batch_size=at_once, workers=workers, observer=observer)
    found, known = _evaluation(model, labelled, predictions, chosen, str(source), str(data))
    if foreign_files:
        folder, images = str(options.unknown_images), [(path, 0) for path in foreign_files]
        foreign = _predict(
            model, images, batch_size=at_once, workers=workers, observer=observer, task="predicting unknown images"
        )
        _refuse_none(foreign, folder)
        check = unknown_check(chosen, printable(folder), known, foreign)
        found = replace(found, abstention=replace(found.abstention, unknown=check))
    return replace(found, limit=options.limit)


def _predict(
    model: Classifier,
    images: Sequence[tuple[Path, int]],
    *,
    batch_size: int,
    workers: int,
    observer: Observer,
    task: str = "evaluating",
) -> Predictions:
    def job_of(image: tuple[Path, int]) -> Job:
        return PlainPixels(ImageFile(image[0]), model.preprocessing)

    outputs: list[Outputs] = []
    unreadable: dict[Path, str] = {}
    blank: dict[str, str] = {}
    with observer.task(task, len(images)):
        read = decoded_batches(images, job_of, batch_size=batch_size, workers=workers, images=len(images))
        for batch, outputs_NE in model.stream(read):
            unreadable |= {path: error.reason for (path, _), error in batch.failures}
            if batch.items:
                outputs.append(outputs_NE)
            blank |= {str(path): kind for (path, _), kind in batch.blank}
            observer.advance(len(batch.items) + len(batch.failures))
    for text in blank_image_remarks(blank.items()):
        observer.warn(text)
    classes = len(model.classes)
    return Predictions(stacked(outputs, classes), classes, unreadable)


def _refuse_none(predictions: Predictions, data: str) -> None:
    if not len(predictions.outputs):
        path, reason = next(iter(predictions.unreadable.items()))
        raise DataError(f"no image of {printable(data)} can be read, such as {printable(path)}: {reason}")


def _evaluation(
    model: Classifier, labelled: Labelled, predictions: Predictions, chosen: ChosenRule, source: str, data: str
) -> tuple[Evaluation, Signals]:
    _refuse_none(predictions, data)
    unreadable, logits_NK = predictions.unreadable, predictions.logits
    labels = np.array([label for path, label in labelled.images if path not in unreadable], np.int64)
    readable = [(path, digest) for (path, _), digest in labelled.with_digests() if path not in unreadable]
    answers = answers_from_logits(
        logits_NK, labels, model.classes, [labelled.name_of(path) for path, _ in readable], [one for _, one in readable]
    )
    figures = figures_of(answers, model.majority_class)
    abstention, signals = abstention_by(chosen, predictions, answers, labels)
    shared = {one.name for one in fields(Figures)} & {one.name for one in fields(Evaluation)} - {"confusion"}
    found = Evaluation(
        **{name: getattr(figures, name) for name in shared},
        model=printable(source),
        data=printable(data),
        split=labelled.split,
        trained_on=labelled.trained_on,
        baseline_from="training" if model.majority_class in model.classes else "evaluated",
        confusion=figures.confusion.tolist(),
        unreadable=tuple((printable(path), reason) for path, reason in unreadable.items()),
        notes=(*labelled.notes, *chosen.remarks(labelled.split)),
        abstention=abstention,
        robustness=predictions.rows,
        figures=figures,
        answers=answers,
        source=Path(source),
        root=labelled.root,
    )
    return found, signals
