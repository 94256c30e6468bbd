"""Three sentences about a model, with their figures: how good it is, how sure that is, and what would help most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, percent, points
from cnn_tl.core.statistics import Z95, wilson_interval
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.metrics.figures import Figures

GOOD = 0.95
"""A model needs no advice if the whole interval of its accuracy lies above this."""

MANY_DOUBTS = 0.25
"""The share of mistakes with labels that look wrong, from which on the labels come first."""

SOME_DOUBTS = 0.1
"""The same share from which on the labels are named too, after other advice."""

FEW_IMAGES = 30
"""Images below which more of them are the first thing to try: of a class to train on, or of all to evaluate on."""

TELLING = 0.1
"""A gap between probabilities and accuracy that must be detectable before they are said to agree."""

TELLABLE = 6
"""Mistakes that a better model must correct, and make no other, before McNemar's exact test tells the two apart."""


@dataclass(frozen=True)
class Circumstances:
    """What is known about a model besides its answers; everything is empty or None for a model from elsewhere.

    Attributes:
        what: the images, such as "validation".
        trained_on: whether the model was trained on these very images.
        training_images: class -> number of training images.
        mode: of training. fine_tuning_failed: it was tried, and was no better than the frozen backbone.
        larger_model: a larger backbone that is worth a try.
        ask_for_curve: the command that says what more images would bring, if it has not been run.
    """

    what: str = ""
    trained_on: bool = False
    training_images: Mapping[str, int] = field(default_factory=dict)
    mode: str | None = None
    fine_tuning_failed: bool = False
    larger_model: str | None = None
    ask_for_curve: str | None = None


def verdict(figures: Figures, answers: LabelledAnswers, doubtful: int, about: Circumstances) -> tuple[str, str, str]:
    """Return the three sentences.

    Args:
        doubtful: the number of images whose labels look wrong (`selection.doubtful_labels`).
    """
    return _how_good(figures, about), _how_sure(figures, answers, about), _what_helps(figures, doubtful, about)


def _how_good(figures: Figures, about: Circumstances) -> str:
    images = counted(figures.images, f"{about.what} image".strip())
    right = f"It is right on {figures.correct:,} of {images} ({percent(figures.accuracy)})"
    guess = f"always answering {printable(figures.baseline_class)} would be right on {percent(figures.baseline)}"
    low, high = figures.interval
    if figures.baseline == 1:
        well = "do as well" if figures.accuracy == 1 else "be right on all"
        return f"{right}; all of them are {printable(figures.baseline_class)}, so a constant answer would {well}."
    if low > figures.baseline:
        return f"{right}; {guess}."
    worse = "worse than guessing" if high < figures.baseline else "not clearly better than guessing"
    return f"{right}, which is {worse}: {guess}."


def _how_sure(figures: Figures, answers: LabelledAnswers, about: Circumstances) -> str:
    if about.trained_on:
        return "How good it is on other images is not known: it was trained on these."
    low, high = figures.interval
    these = "this is" if figures.images == 1 else "these are"
    images = f"As {these} {counted(figures.images, 'image')}"
    interval = f"{images}, its accuracy may be anywhere from {percent(low)} to {percent(high)} (95% interval)"
    return f"{interval}; {_calibration(answers)}."


def _calibration(answers: LabelledAnswers) -> str:
    """Say whether the probabilities promise more right answers than there are, by more than chance."""
    confidence_N = answers.confidence
    promised, right = float(confidence_N.sum()), int(answers.right.sum())
    spread = math.sqrt(float((confidence_N * (1 - confidence_N)).sum()))
    gap = points((promised - right) / len(answers), unit="").lstrip("+-")
    if abs(promised - right) <= Z95 * spread + 0.5:  # counts are whole
        if Z95 * spread > TELLING * len(answers):
            too_few = "it is" if len(answers) == 1 else "they are"
            return f"{too_few} too few to tell whether its probabilities are right"
        return "its probabilities agree with how often it is right"
    if promised > right:
        return f"it is overconfident: its probabilities are {gap} points too high on average"
    return f"it is underconfident: its probabilities are {gap} points too low on average"


def _what_helps(figures: Figures, doubtful: int, about: Circumstances) -> str:
    """Return the first advice for which there is evidence, and the labels too where some of them look wrong."""
    wrong = figures.images - figures.correct
    if doubtful and doubtful >= MANY_DOUBTS * wrong:
        those = "the image whose label looks" if doubtful == 1 else f"the {doubtful:,} images whose labels look"
        return f"Look at {those} wrong: {doubtful:,} of its {counted(wrong, 'mistake')}."
    advice = _first_advice(figures, about)
    if doubtful and doubtful >= SOME_DOUBTS * wrong and figures.interval[0] < GOOD:
        labels = "label that looks" if doubtful == 1 else f"{doubtful:,} labels that look"
        return f"{advice.removesuffix('.')}; also look at the {labels} wrong."
    return advice


def _first_advice(figures: Figures, about: Circumstances) -> str:
    """Return the first advice, besides labels, for which there is evidence."""
    if about.trained_on:
        return "Evaluate it on images that it was not trained on: all figures here are too good."
    if figures.interval[0] >= GOOD:
        return "Nothing needs to be done; check with images from where it will be used."
    if weak := _weak_class(figures):
        return _more_of(weak, figures, about)
    wrong = figures.images - figures.correct
    if wrong == 0 or (wrong < TELLABLE and (figures.accuracy >= GOOD or figures.images < FEW_IMAGES)):
        return "More labelled images to evaluate it on: with so few, a better model could not be told from this one."
    return _other_training(figures, about)


def _weak_class(figures: Figures) -> str | None:
    """Return the class with the lowest recall, if that is clearly below the recall of all others together.

    Both intervals allow for the choice among the classes (Bonferroni's bound, Dunn 1961).
    """
    classes = {name: one for name, one in figures.per_class.items() if one.recall is not None}
    if len(classes) < 2:
        return None
    name, weak = min(classes.items(), key=lambda item: (item[1].recall, item[0]))
    z = NormalDist().inv_cdf(1 - 0.025 / len(classes))
    high = wilson_interval(weak.right, weak.images, z)[1]
    low = wilson_interval(figures.correct - weak.right, figures.images - weak.images, z)[0]
    return name if high < low else None


def _more_of(name: str, figures: Figures, about: Circumstances) -> str:
    one = figures.per_class[name]
    others = (figures.correct - one.right) / (figures.images - one.images)
    trained = about.training_images.get(name)
    have = f", from {counted(trained, 'training image')}" if trained is not None else ""
    recall = f"{percent(one.recall or 0.0)} of them are recognised{have}, against {percent(others)} of the others"
    return f"More images of {printable(name)}, or a look at what it is taken for: {recall}{_asked(about)}."


def _asked(about: Circumstances) -> str:
    """Name the command that says what more images would bring, behind the advice to get some."""
    return f" ({about.ask_for_curve} says what more would bring)" if about.ask_for_curve else ""


def _other_training(figures: Figures, about: Circumstances) -> str:
    """Return how to train another way, by what was tried already."""
    if few := _few_images(about):
        return few
    if about.mode == "freeze":
        rest = f"; or try --model {about.larger_model}" if about.larger_model else ""
        images = f"; {about.ask_for_curve} says what more images would bring" if about.ask_for_curve else ""
        return f"Fine-tune the backbone, which is frozen: --mode auto keeps the result if it is better{rest}{images}."
    if about.fine_tuning_failed:
        model = f" (--model {about.larger_model})" if about.larger_model else ""
        images = f"more images{_asked(about)}"
        return f"A larger backbone{model} or {images}: fine-tuning was no better than the frozen backbone."
    if about.mode == "scratch":
        return "Pretrained weights: --mode auto instead of scratch."
    count, label, answer = figures.confused()[0]
    pair = f"{printable(figures.classes[label])} taken for {printable(figures.classes[answer])}"
    return f"More training images like those it gets wrong, most often {pair} ({count:,}){_asked(about)}."


def _few_images(about: Circumstances) -> str | None:
    """Say so where a class has few training images."""
    counts = about.training_images
    if not counts or min(counts.values()) >= FEW_IMAGES:
        return None
    fewest = min(counts, key=lambda name: counts[name])
    if max(counts.values()) >= 2 * counts[fewest]:
        return f"More training images, first of {printable(fewest)}, which has only {counts[fewest]:,}{_asked(about)}."
    most = max(counts.values())
    range_of_all = f"{counts[fewest]:,} to {most:,}" if most > counts[fewest] else f"{most:,}"
    return f"More training images: {range_of_all} of each class are few{_asked(about)}."
