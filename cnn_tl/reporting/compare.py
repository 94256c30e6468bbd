"""Finished runs and evaluations side by side, on the images that they have in common."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.formatting import counted, percent, points
from cnn_tl.core.statistics import SIGNIFICANT, compare_paired
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.metrics.figures import figures_of
from cnn_tl.metrics.paired import Joined, disagreements, holm, images_needed, join
from cnn_tl.reporting.answer_sources import AnswerSource, classes_of_model, source_of
from cnn_tl.reporting.cost import Cost
from cnn_tl.reporting.speed import images_per_second

if TYPE_CHECKING:
    from cnn_tl.core.progress import Observer
    from cnn_tl.evaluating.evaluate import EvaluationOptions

EXAMPLES = 12
"""Images that are named, of those that only one of two runs gets right."""

MOST_RUNS = len(ascii_uppercase)
"""Runs are named by a letter."""

_MOST_NAMED = 5


@dataclass(frozen=True)
class Compared:
    """One run, or another source of answers, on the common images.

    Attributes:
        mode: None where it is no run. cost: None where it is a file of answers.
        own_images: the images to which it has answers, with those that others do not have.
        interval: the 95% Wilson score interval of the accuracy.
        log_loss: in nats; None where an old run did not keep it.
        images_per_second: of the model on the CPU of this machine, without decoding; None where it cannot run here.
    """

    run: str
    mode: str | None
    own_images: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    macro_f1: float
    log_loss: float | None
    cost: Cost | None
    images_per_second: float | None


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
        joined: the answers, image by image. roots: the data folder of each run; None where it is not known.
    """

    images: int
    classes: tuple[str, ...]
    runs: tuple[Compared, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    joined: Joined = field(repr=False)
    roots: tuple[Path | None, ...] = field(repr=False)

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
        runs: run folders, and files of `evaluate --answers`; with `data`, also bundles and .onnx files.
        data: labelled images on which all models are evaluated first; None: the validation images of each run.
        options, observer: of these evaluations.

    Raises:
        UsageError: there are fewer than two runs or more than `MOST_RUNS`, one is named twice, or a bundle or a .onnx
            file is named without data.
        ArtefactError: a run has not finished, or a file of it is damaged.
        DataError: the runs have different classes, or no images in common.
    """
    if not 2 <= len(runs) <= MOST_RUNS:
        raise UsageError(f"compare needs at least two runs, and takes at most {MOST_RUNS}")
    names = [printable(run) for run in runs]
    if twice := next((one for one, other in itertools.combinations(runs, 2) if one.resolve() == other.resolve()), None):
        raise UsageError(f"{printable(twice)} is named twice")
    if data is not None:  # refused before anything is evaluated
        _require_same_classes([(name, classes_of_model(run), True) for name, run in zip(names, runs, strict=True)])
    sources = [source_of(run, data, options, observer) for run in runs]
    _require_same_classes([(one.name, one.answers.classes, one.knows_all_classes) for one in sources])
    own = [source.answers for source in sources]
    joined = join(own, frozenset[str]().union(*(source.trained_on for source in sources)))
    if not len(joined):
        raise DataError(_nothing_in_common(names, own, joined))
    compared = tuple(
        _compared(source, answers, run) for source, answers, run in zip(sources, joined.answers, runs, strict=True)
    )
    return Comparison(
        images=len(joined),
        classes=max((one.classes for one in own), key=len),
        runs=compared,
        differences=_differences(compared, joined),
        notes=_notes(compared, joined),
        joined=joined,
        roots=tuple(source.root for source in sources),
    )


def _compared(source: AnswerSource, answers: LabelledAnswers, model: Path) -> Compared:
    figures = figures_of(answers)
    return Compared(
        run=source.name,
        mode=source.mode,
        own_images=len(source.answers),
        correct=figures.correct,
        accuracy=figures.accuracy,
        interval=figures.interval,
        macro_f1=figures.macro.f1,
        log_loss=figures.log_loss,
        cost=source.cost,
        images_per_second=None if source.cost is None else images_per_second(model),
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


def _require_same_classes(models: Sequence[tuple[str, tuple[str, ...] | None, bool]]) -> None:
    """Refuse models of different classes; their order may differ, and a file of answers may name only some of them.

    Args:
        models: name, classes, and whether these are all classes of the model; None: not known yet.
    """
    known = [(name, set(classes), whole) for name, classes, whole in models if classes is not None]
    if not known:
        return
    first, expected, first_is_whole = next((one for one in known if one[2]), known[0])
    for name, classes, whole in known:
        unlike = classes - expected if first_is_whole else set()
        if whole:
            unlike |= expected - classes
        if unlike:
            names = sorted(unlike)
            shown = ", ".join(map(printable, names[:_MOST_NAMED])) + (", ..." if len(names) > _MOST_NAMED else "")
            raise DataError(f"{first} and {name} have different classes: only one of them knows {shown}")


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
