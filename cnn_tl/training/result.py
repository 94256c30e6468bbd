"""The result of a finished run, with a confidence interval and a baseline."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.formatting import percent
from cnn_tl.core.statistics import wilson_interval
from cnn_tl.data.manifest import Manifest
from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits
from cnn_tl.training.checkpoints import digests
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.outcome import Facts, Outcome
from cnn_tl.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainResult:
    """The result of a finished run.

    Attributes:
        run: the run folder.
        accuracy: top-1 accuracy on the validation split.
        interval: its 95% Wilson score interval.
        baseline: the validation accuracy of the majority-class baseline, which always answers `baseline_class`, the
            most frequent class of the training split.
        correct, images: counts on the validation split.
        per_class: class -> [right answers, images] on the validation split.
        seconds: the whole of `train`, without the imports before it; for a resumed run (`facts["resumed"]`), since it
            was resumed, and always without the report.
        facts: how the run went (best epoch, penalty, digest of what was frozen, ...), plain data as in result.json;
            `Facts.from_dict` returns it typed.
        report: the page about the run; None if none was written.
    """

    run: Path
    mode: str
    backbone: str
    accuracy: float
    interval: tuple[float, float]
    baseline: float
    baseline_class: str
    correct: int
    images: int
    per_class: dict[str, tuple[int, int]]
    set_aside: int
    seconds: float
    facts: dict[str, Any]
    report: Path | None = None

    def __repr__(self) -> str:
        """Return for example `<TrainResult runs/photos-freeze: 94.7% of 75 right (87.1% to 97.9%), baseline 33.3%>`."""
        low, high = map(percent, self.interval)
        shares = f"{percent(self.accuracy)} of {self.images:,} right ({low} to {high})"
        return f"<TrainResult {printable(self.run)}: {shares}, baseline {percent(self.baseline)}>"

    def __fspath__(self) -> str:
        """Return the run folder, so that a result can be passed as a path: `predict(result, "cat.jpg")`."""
        return str(self.run)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; the report by its name in the run folder."""
        return asdict(self) | {"run": printable(self.run), "report": self.report.name if self.report else None}


@dataclass(frozen=True)
class Finished:
    """What a run knows at its end and a report needs: reading 100,000 images back from its files takes seconds."""

    result: TrainResult
    manifest: Manifest
    answers: LabelledAnswers


def make_result(run: Run, dataset: Dataset, network: LazyNetwork, outcome: Outcome, started: float) -> TrainResult:
    """Return the result on the validation images.

    Args:
        started: when the run began, by `time.monotonic`.
    """
    manifest = dataset.manifest
    labels = manifest.labels("val")
    right = outcome.logits.argmax(1) == labels
    correct = int(right.sum())
    return TrainResult(
        run=run.folder.path,
        mode=run.recipe.mode,
        backbone=network.info.name,
        accuracy=correct / len(labels),
        interval=wilson_interval(correct, len(labels)),
        baseline=manifest.baseline_accuracy(),
        baseline_class=manifest.largest_class(),
        correct=correct,
        images=len(labels),
        per_class={
            name: (int(right[labels == k].sum()), int((labels == k).sum())) for k, name in enumerate(manifest.classes)
        },
        set_aside=len(manifest.set_aside),
        seconds=round(time.monotonic() - started, 2),
        facts=outcome.facts.to_dict(),
    )


def validation_answers(dataset: Dataset, outcome: Outcome) -> LabelledAnswers:
    """Return the answers to the validation images, whose digests the manifest has."""
    manifest = dataset.manifest
    files = [image.path for image in manifest.of("val")]
    return answers_from_logits(outcome.logits, manifest.labels("val"), manifest.classes, files)


def read_result(run: RunFolder) -> TrainResult:
    """Read the result that a finished run has written.

    Raises:
        ArtefactError: it is damaged, or has changed since.
    """
    digests.check(run.result, f"remove it, and this writes it again: {run.resume_command}")
    stored = files.read_json(run.result)
    try:
        return _from_dict(stored, run)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{printable(run.result)} is damaged: {error}") from error


def _from_dict(stored: dict[str, Any], run: RunFolder) -> TrainResult:
    if "pictures" in stored:  # the key of older runs
        stored = stored | {"images": stored["pictures"]}
        del stored["pictures"]
    facts = stored["facts"] | Facts.from_dict(stored["facts"]).to_dict()  # today's keys beside those of older runs
    per_class = {name: (right, total) for name, (right, total) in stored["per_class"].items()}
    read = {"run": run.path, "interval": tuple(stored["interval"]), "per_class": per_class, "facts": facts}
    report = run.path / Path(stored["report"]).name if stored.get("report") else None
    return TrainResult(**stored | read | {"report": report})
