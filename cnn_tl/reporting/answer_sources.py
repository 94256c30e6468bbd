"""What `compare` takes: finished runs, files of `evaluate --answers`, and any model that is evaluated first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, UsageError, printable
from cnn_tl.data.manifest import Manifest
from cnn_tl.inference.loading import is_onnx
from cnn_tl.metrics.answer_lines import answers_from_lines
from cnn_tl.metrics.answers import RANKS, LabelledAnswers
from cnn_tl.networks import bundle
from cnn_tl.reporting.cost import Cost, cost_of, cost_of_onnx
from cnn_tl.reporting.report import finished_result
from cnn_tl.training.run_answers import answers_of_run
from cnn_tl.training.run_folder import RunFolder

if TYPE_CHECKING:
    from cnn_tl.core.progress import Observer
    from cnn_tl.evaluating.evaluate import EvaluationOptions

SUFFIX = ".jsonl"
"""Of a file of answers."""


@dataclass(frozen=True)
class AnswerSource:
    """A model's answers, and what is known about the model.

    Attributes:
        name: as the caller gave it, printable.
        knows_all_classes: whether `answers.classes` are all classes of the model; a file names only those it answers.
        root: the folder that the images are relative to; None: not known.
        trained_on: the SHA-256 of training images, as far as they are known.
        mode: of a run; None otherwise. cost: None for a file of answers.
    """

    name: str
    answers: LabelledAnswers
    knows_all_classes: bool = True
    root: Path | None = None
    trained_on: frozenset[str] = frozenset()
    mode: str | None = None
    cost: Cost | None = None


def source_of(
    path: Path, data: Path | None, options: EvaluationOptions | None = None, observer: Observer | None = None
) -> AnswerSource:
    """Return the answers of a model.

    Args:
        path: a run folder or a file of answers; with `data`, also a bundle or a .onnx file.
        data: labelled images on which the model is evaluated now; None: the validation images of a run.
        options, observer: of the evaluation.

    Raises:
        UsageError: a bundle or a .onnx file is named without data.
        ArtefactError: there is no such model, a run has not finished, or a file is damaged.
        DataError: `data` has no images, or the model does not know their classes.
    """
    if path.suffix == SUFFIX:
        return _of_file(path)
    if data is None:
        _require_own_answers(path)
        return _of_run(path)
    from cnn_tl.evaluating.evaluate import EvaluationOptions, evaluate

    known = _of_run(path) if RunFolder(path).recipe.is_file() else None
    answers = evaluate(path, data, replace(options or EvaluationOptions(), digests=True), observer).answers
    if known is None:
        return AnswerSource(
            printable(path), answers, root=data, cost=cost_of_onnx(path) if is_onnx(path) else cost_of(path)
        )
    return replace(known, answers=answers, root=data)


def classes_of_model(path: Path) -> tuple[str, ...] | None:
    """Return the classes of a run, bundle or .onnx file without evaluating it; None for a file of answers.

    Raises:
        ArtefactError: there is no such model, or it is damaged.
    """
    if path.suffix == SUFFIX:
        return None
    if not is_onnx(path):
        return bundle.describe(path).classes
    from cnn_tl.networks.onnx_model import OnnxModel

    return tuple(OnnxModel.open(path).classes)


def _require_own_answers(path: Path) -> None:
    """Refuse a model that keeps no answers."""
    is_bundle = (path / bundle.CONFIG).is_file() and (path / bundle.WEIGHTS).is_file()
    if is_bundle or (is_onnx(path) and path.is_file()):
        raise UsageError(f"{printable(path)} holds no answers: name labelled images to evaluate it on with --data")


def _of_run(path: Path) -> AnswerSource:
    folder = RunFolder(path)
    result = finished_result(folder)
    manifest = Manifest.from_json(files.read_json(folder.manifest))
    return AnswerSource(
        name=printable(path),
        answers=answers_of_run(folder, manifest),
        root=manifest.root,
        trained_on=frozenset(image.sha256 for image in manifest.of("train")),
        mode=result.mode,
        cost=cost_of(folder.bundle, result),
    )


def _of_file(path: Path) -> AnswerSource:
    """Return the answers that `evaluate --answers` wrote."""
    try:
        answers = answers_from_lines(files.read_bytes(path).splitlines())
    except FileNotFoundError as error:
        raise ArtefactError(f"there is no file {printable(path)}") from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{printable(path)} is not a file of evaluate --answers, or is damaged: {error}") from error
    if not any(answers.sha256):
        raise ArtefactError(
            f"{printable(path)} has no digests of images; name the run folder, or a file of evaluate --answers"
        )
    return AnswerSource(printable(path), answers, knows_all_classes=answers.ranked.shape[1] < RANKS)
