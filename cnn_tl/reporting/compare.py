"""Finished runs side by side, on the validation images that they have in common."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core import files
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.formatting import counted, percent, points
from cnn_tl.core.statistics import SIGNIFICANT, compare_paired
from cnn_tl.data.manifest import Manifest
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.metrics.figures import figures_of
from cnn_tl.metrics.paired import Joined, disagreements, holm, images_needed, join
from cnn_tl.reporting.cost import Cost, cost_of
from cnn_tl.reporting.report import finished_result
from cnn_tl.training.run_answers import answers_of_run
from cnn_tl.training.run_folder import RunFolder

if TYPE_CHECKING:
    from cnn_tl.core.progress import Observer
    from cnn_tl.evaluating.evaluate import EvaluationOptions

EXAMPLES = 12
"""Images that are named, of those that only one of two runs gets right."""

_MOST_NAMED = 5


@dataclass(frozen=True)
class Compared:
    """One run on the common images.

    Attributes:
        own_images: the images to which it has answers, with those that others do not have.
        interval: the 95% Wilson score interval of the accuracy.
        log_loss: in nats; None where an old run did not keep it.
    """

    run: str
    mode: str
    own_images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    log_loss: float | None
    cost: Cost


@dataclass(frozen=True)
class Difference:
    """A run against the first one, on the same images.

    Attributes:
        run, baseline: which ones.
        gain: the accuracy of the run minus that of the baseline. interval: its 95% confidence interval (Bonett and
            Price 2012).
        p: McNemar's exact test. p_corrected: the same for all comparisons made (Holm 1979).
        only_baseline, only_run: images that only one of them gets right.
        macro_f1, log_loss: the run's minus the baseline's.
        images_needed: to show a difference of this size; None if there is none, or it is shown.
        verdict: a sentence.
        examples_baseline, examples_run: some images that only one gets right, the other's most confident mistakes.
    """

    run: str
    baseline: str
    gain: float
    interval: tuple[float, float]
    p: float
    p_corrected: float
    only_baseline: int
    only_run: int
    macro_f1: float
    log_loss: float | None
    images_needed: int | None
    verdict: str
    examples_baseline: tuple[str, ...]
    examples_run: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Two or more runs on the same images.

    Attributes:
        images: how many these are.
        runs: in the given order. differences: each but the first against the first.
        notes: images that were left out, and why.
        joined: the answers, image by image. roots: the data folder of each run.
    """

    images: int
    classes: tuple[str, ...]
    runs: tuple[Compared, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    joined: Joined = field(repr=False)
    roots: tuple[Path, ...] = field(repr=False)

    def __repr__(self) -> str:
        """Return such as `<Comparison on 75 images: runs/a 94.7%, runs/b 96.0%>`."""
        shares = ", ".join(f"{one.run} {percent(one.accuracy)}" for one in self.runs)
        return f"<Comparison on {counted(self.images, 'image')}: {shares}>"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "images": self.images,
            "classes": list(self.classes),
            "runs": [asdict(one) for one in self.runs],
            "differences": [asdict(one) for one in self.differences],
            "notes": list(self.notes),
        }


def compare(
    runs: Sequence[Path],
    data: Path | None = None,
    options: EvaluationOptions | None = None,
    observer: Observer | None = None,
) -> Comparison:
    """Compare finished runs on the images that they have in common, joined by content.

    Images that one of them was trained on are left out.

    Args:
        data: labelled images on which all runs are evaluated first; None: the validation images of each run.
        options, observer: of these evaluations.

    Raises:
        UsageError: there are fewer than two runs, or one is named twice.
        ArtefactError: a run has not finished, or a file of it is damaged.
        DataError: the runs have different classes, or no images in common.
    """
    if len(runs) < 2:
        raise UsageError("compare needs at least two runs")
    names = [printable(run) for run in runs]
    if twice := next((one for one, other in itertools.combinations(runs, 2) if one.resolve() == other.resolve()), None):
        raise UsageError(f"{printable(twice)} is named twice")
    folders = [RunFolder(run) for run in runs]
    results = [finished_result(folder) for folder in folders]
    manifests = [Manifest.from_json(files.read_json(folder.manifest)) for folder in folders]
    _require_same_classes(names, manifests)
    if data is None:
        own = [answers_of_run(folder) for folder in folders]
        roots = [manifest.root for manifest in manifests]
    else:
        own = [_evaluated(run, data, options, observer) for run in runs]
        roots = [data for _ in runs]
    joined = join(own, {image.sha256 for manifest in manifests for image in manifest.of("train")})
    if not len(joined):
        raise DataError(_nothing_in_common(names, own, joined))
    compared = tuple(
        _compared(name, result.mode, len(mine), answers, cost_of(folder.bundle, result))
        for name, result, mine, answers, folder in zip(names, results, own, joined.answers, folders, strict=True)
    )
    return Comparison(
        images=len(joined),
        classes=manifests[0].classes,
        runs=compared,
        differences=_differences(compared, joined),
        notes=_notes(compared, joined),
        joined=joined,
        roots=tuple(roots),
    )


def _evaluated(run: Path, data: Path, options: EvaluationOptions | None, observer: Observer | None) -> LabelledAnswers:
    from cnn_tl.evaluating.evaluate import EvaluationOptions, evaluate

    return evaluate(run, data, replace(options or EvaluationOptions(), digests=True), observer).answers


def _compared(name: str, mode: str, own_images: int, answers: LabelledAnswers, cost: Cost) -> Compared:
    figures = figures_of(answers)
    return Compared(
        run=name,
        mode=mode,
        own_images=own_images,
        correct=figures.correct,
        accuracy=figures.accuracy,
        interval=figures.interval,
        macro_f1=figures.macro.f1,
        log_loss=figures.log_loss,
        cost=cost,
    )


def _differences(runs: Sequence[Compared], joined: Joined) -> tuple[Difference, ...]:
    """Return each run but the first against the first."""
    baseline, base = runs[0], joined.answers[0]
    pairs = [compare_paired(base.right, answers.right) for answers in joined.answers[1:]]
    corrected = holm([pair.p for pair in pairs])
    found = []
    for run, answers, pair, p in zip(runs[1:], joined.answers[1:], pairs, corrected, strict=True):
        shown = p < SIGNIFICANT
        one = Difference(
            run=run.run,
            baseline=baseline.run,
            gain=pair.gain,
            interval=pair.interval,
            p=pair.p,
            p_corrected=p,
            only_baseline=pair.only_first,
            only_run=pair.only_second,
            macro_f1=run.macro_f1 - baseline.macro_f1,
            log_loss=None if run.log_loss is None or baseline.log_loss is None else run.log_loss - baseline.log_loss,
            images_needed=None if shown else images_needed(pair, len(joined)),
            verdict="",
            examples_baseline=tuple(base.files[i] for i in disagreements(answers, base)[:EXAMPLES]),
            examples_run=tuple(base.files[i] for i in disagreements(base, answers)[:EXAMPLES]),
        )
        found.append(replace(one, verdict=_verdict(one, len(joined), several=len(pairs) > 1)))
    return tuple(found)


def _verdict(one: Difference, images: int, *, several: bool) -> str:
    """Return which of two runs is better, or how many more images it would take to tell."""
    if one.p_corrected < SIGNIFICANT:
        low, high = (points(end, unit="") for end in one.interval)
        p = shown_p(one.p_corrected) + (", corrected for all comparisons" if several else "")
        word = "better" if one.gain > 0 else "worse"
        return f"{one.run} is {word} than {one.baseline}: {points(one.gain)} ({low} to {high}), {p}"
    told = f"{one.run} and {one.baseline} cannot be told apart on {counted(images, 'image')}"
    if not one.only_baseline and not one.only_run:
        return f"{told}: they are right and wrong on the same ones"
    if one.images_needed is None:
        return f"{told}: each has as many right answers as the other"
    if one.images_needed <= images:  # the exact test is stricter than the formula, with few images
        return f"{told}: {points(one.gain)}; somewhat more images may be enough to tell"
    return f"{told}: {points(one.gain)}; about {_rounded_up(one.images_needed):,} would be needed to tell"


def shown_p(p: float) -> str:
    """Return a p-value with two digits, such as "p = 0.012" or "p < 0.0001"."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def _rounded_up(number: int) -> int:
    """Return a number with two significant digits, no smaller."""
    step = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // step) * step


def _notes(runs: Sequence[Compared], joined: Joined) -> tuple[str, ...]:
    notes = []
    if any(one.own_images > len(joined) for one in runs):
        of = ", ".join(f"{one.own_images:,} in {one.run}" for one in runs)
        notes.append(f"compared on the {counted(len(joined), 'image')} that all have, of {of}")
    if joined.trained_on:
        notes.append(f"left out {counted(joined.trained_on, 'image')} that one of the runs was trained on")
    if joined.relabelled:
        notes.append(f"left out {counted(joined.relabelled, 'image')} that the runs have under different labels")
    return tuple(notes)


def _require_same_classes(names: Sequence[str], manifests: Sequence[Manifest]) -> None:
    """Refuse runs of different classes; their order may differ."""
    first = set(manifests[0].classes)
    for name, manifest in zip(names[1:], manifests[1:], strict=True):
        if unlike := sorted(first.symmetric_difference(manifest.classes)):
            shown = ", ".join(map(printable, unlike[:_MOST_NAMED])) + (", ..." if len(unlike) > _MOST_NAMED else "")
            raise DataError(f"{names[0]} and {name} have different classes: only one of them knows {shown}")


def _nothing_in_common(names: Sequence[str], own: Sequence[LabelledAnswers], joined: Joined) -> str:
    if joined.trained_on:
        which = counted(joined.trained_on, "image")
        return (
            f"{' and '.join(names)} share {which}, but one of them was trained on all of these; name others with --data"
        )
    for name, answers in zip(names[1:], own[1:], strict=True):
        if not len(join([own[0], answers])):
            return f"{names[0]} and {name} have no images in common; evaluate both on the same ones with --data"
    return f"there is no image that {', '.join(names)} all have; evaluate them on the same ones with --data"
