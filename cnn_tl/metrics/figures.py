"""All figures of a model on labelled images, from its answers: those that `evaluate` prints and a report draws."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.statistics import wilson_interval
from cnn_tl.metrics.answers import LabelledAnswers

BINS = 15
"""Bins of the calibration error, as in Guo et al. 2017, sec. 2."""


@dataclass(frozen=True)
class ClassFigures:
    """One class: its images, how many of them are answered correctly, how often it is answered, and their ratios.

    Attributes:
        images, right, answered: counts.
        precision: right / answered. recall: right / images. f1: their harmonic mean. None where nothing is divided
            by: no answer, no image, neither.
        recall_interval: the 95% Wilson score interval of the recall; None without images.
    """

    images: int
    right: int
    answered: int
    precision: float | None
    recall: float | None
    f1: float | None
    recall_interval: tuple[float, float] | None


@dataclass(frozen=True)
class Averages:
    """Precision, recall and F1 averaged over classes; a class for which one is undefined counts as 0."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class CalibrationBin:
    """The answers whose probability lies in [low, high): how many, their mean probability, and how many are right."""

    low: float
    high: float
    images: int
    confidence: float
    right: int


@dataclass(frozen=True)
class Figures:
    """How good a model is on N labelled images.

    Attributes:
        images, correct: counts. accuracy: top-1. interval: its 95% Wilson score interval.
        baseline: the accuracy of always answering `baseline_class`.
        top_k: the share of images whose class is among the k most probable, for k = 1, 2, ... as far as it is known.
        balanced_accuracy: the mean recall of the classes that have images.
        macro: averages over the classes that have images or answers. weighted: by their images.
        log_loss: the mean cross-entropy in nats; None where an old run did not keep it.
        calibration_error: the expected calibration error, the mean gap between probability and accuracy (Guo et al.
            2017, eq. 3, in 15 bins). calibration: those bins, without the empty ones.
        confusion: images by label (row) and answer (column).
    """

    classes: tuple[str, ...]
    images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    baseline: float
    baseline_class: str
    top_k: tuple[float, ...]
    balanced_accuracy: float
    macro: Averages
    weighted: Averages
    log_loss: float | None
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    per_class: dict[str, ClassFigures]
    confusion: NDArray[np.int64]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; the confusion matrix as [label, answer, images] of the cells that are not 0."""
        cells = [[int(i), int(j), int(self.confusion[i, j])] for i, j in np.argwhere(self.confusion)]
        plain = {name: value for name, value in asdict(self).items() if name != "confusion"}
        return plain | {"confusion": cells}

    def confused(self) -> list[tuple[int, int, int]]:
        """Return (images, label, answer) of each pair of classes that was confused, the most frequent first."""
        off = self.confusion - np.diag(self.confusion.diagonal())
        pairs = [(int(off[i, j]), int(i), int(j)) for i, j in np.argwhere(off)]
        return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))


def figures_of(answers: LabelledAnswers, baseline_class: str | None = None) -> Figures:
    """Compute all figures.

    Args:
        baseline_class: the most frequent class in training; None: that of these images.

    Raises:
        ValueError: there are no images.
    """
    images, classes = len(answers), len(answers.classes)
    if not images:
        raise ValueError("no images")
    cells = answers.labels * classes + answers.predicted
    confusion_KK = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    sizes_K, rights_K, answered_K = confusion_KK.sum(1), confusion_KK.diagonal(), confusion_KK.sum(0)
    correct = int(rights_K.sum())
    known = baseline_class is not None and baseline_class in answers.classes
    majority = answers.classes.index(str(baseline_class)) if known else int(sizes_K.argmax())
    counts = zip(sizes_K.tolist(), rights_K.tolist(), answered_K.tolist(), strict=True)
    per_class = [_class_figures(*one) for one in counts]
    recalls = [one.recall for one in per_class if one.recall is not None]
    losses_N = answers.losses
    bins = _calibration(answers.confidence, answers.right)
    return Figures(
        classes=answers.classes,
        images=images,
        correct=correct,
        accuracy=correct / images,
        interval=wilson_interval(correct, images),
        baseline=float(sizes_K[majority] / images),
        baseline_class=answers.classes[majority],
        top_k=tuple(_top_k(answers)),
        balanced_accuracy=float(np.mean(recalls)),
        macro=_averages([one for one in per_class if one.images or one.answered], weighted=False),
        weighted=_averages(per_class, weighted=True),
        log_loss=None if np.isnan(losses_N).any() else float(losses_N.mean()),
        calibration_error=sum(abs(one.confidence * one.images - one.right) for one in bins) / images,
        calibration=bins,
        per_class=dict(zip(answers.classes, per_class, strict=True)),
        confusion=confusion_KK,
    )


def _class_figures(images: int, right: int, answered: int) -> ClassFigures:
    return ClassFigures(
        images=images,
        right=right,
        answered=answered,
        precision=right / answered if answered else None,
        recall=right / images if images else None,
        f1=2 * right / (images + answered) if images + answered else None,
        recall_interval=wilson_interval(right, images) if images else None,
    )


def _averages(classes: list[ClassFigures], *, weighted: bool) -> Averages:
    weights = [one.images if weighted else 1 for one in classes]

    def mean(values: list[float | None]) -> float:
        return float(np.average([value or 0.0 for value in values], weights=weights))

    return Averages(
        precision=mean([one.precision for one in classes]),
        recall=mean([one.recall for one in classes]),
        f1=mean([one.f1 for one in classes]),
    )


def _top_k(answers: LabelledAnswers) -> list[float]:
    among_NT = answers.ranked == answers.labels[:, None]
    return [float(share) for share in among_NT.cumsum(axis=1).mean(axis=0)]


def _calibration(confidence_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    bins_N = np.minimum((confidence_N * BINS).astype(int), BINS - 1)
    found = []
    for b in np.unique(bins_N):
        inside_N = bins_N == b
        found.append(
            CalibrationBin(
                low=float(b / BINS),
                high=float((b + 1) / BINS),
                images=int(inside_N.sum()),
                confidence=float(confidence_N[inside_N].mean()),
                right=int(right_N[inside_N].sum()),
            )
        )
    return tuple(found)
