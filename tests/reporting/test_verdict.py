"""The three sentences of a report follow from the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from cnn_tl.core.statistics import SIGNIFICANT, compare_paired
from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits
from cnn_tl.metrics.figures import figures_of
from cnn_tl.reporting.verdict import Circumstances, verdict

MANY = {"ash": 500, "birch": 500, "cedar": 500}
Counts = Mapping[tuple[str, str], int]


def answers(counts: Counts, confidence: float) -> LabelledAnswers:
    """Return that many answers for each label and answer, all with the same probability."""
    classes = tuple(MANY)
    labels, logits = [], []
    for (label, answer), count in counts.items():
        labels += [classes.index(label)] * count
        row = np.full(3, np.log((1 - confidence) / 2))
        row[classes.index(answer)] = np.log(confidence)
        logits += [row] * count
    files = [f"{number}.png" for number in range(len(labels))]
    return answers_from_logits(np.array(logits), np.array(labels), classes, files)


def sentences(counts: Counts, doubtful: int = 0, confidence: float = 0.9, **about: Any) -> tuple[str, str, str]:
    made = answers(counts, confidence)
    return verdict(figures_of(made), made, doubtful, Circumstances(**({"training_images": MANY} | about)))


def right(ash: int, birch: int, cedar: int, **wrong: int) -> Counts:
    """Return counts: right answers of each class; ash_birch=2 are two ash images taken for birch."""
    own = {("ash", "ash"): ash, ("birch", "birch"): birch, ("cedar", "cedar"): cedar}
    return own | {(name.split("_")[0], name.split("_")[1]): count for name, count in wrong.items()}


GOOD = right(90, 90, 90, ash_birch=10, birch_cedar=10, cedar_ash=10)
WEAK = right(99, 99, 60, cedar_ash=40, ash_birch=1, birch_ash=1)


def test_how_good_names_the_baseline() -> None:
    good = sentences(GOOD, what="validation")[0]
    assert good == "It is right on 270 of 300 validation images (90.0%); always answering ash would be right on 33.3%."


def test_a_model_that_only_guesses_is_told_so() -> None:
    bad = right(10, 10, 10, ash_birch=20, birch_cedar=20, cedar_ash=20)
    assert "not clearly better than guessing" in sentences(bad)[0]
    worse = right(0, 0, 0, ash_birch=50, birch_cedar=50, cedar_ash=50)
    assert "worse than guessing" in sentences(worse)[0]


def test_images_of_the_training_are_no_evidence_but_on_their_labels() -> None:
    perfect = right(200, 200, 200)
    sure, helps = sentences(perfect, what="training", trained_on=True)[1:]
    assert sure == "How good it is on other images is not known: it was trained on these."
    assert helps == "Evaluate it on images that it was not trained on: all figures here are too good."
    assert "label looks wrong" in sentences(right(200, 200, 199, cedar_ash=1), doubtful=1, trained_on=True)[2]


@pytest.mark.parametrize(
    ("confidence", "words"),
    [
        (0.9, "its probabilities agree with how often it is right"),
        (0.99, "it is overconfident: its probabilities are 9.0 points too high"),
        (0.6, "it is underconfident: its probabilities are 30.0 points too low"),
    ],
)
def test_how_sure_says_what_probabilities_are_worth(confidence: float, words: str) -> None:
    sure = sentences(GOOD, confidence=confidence)[1]
    assert words in sure
    assert "from 86.1% to 92.9%" in sure


def test_a_few_images_do_not_show_that_probabilities_are_right() -> None:
    few = right(4, 4, 4, ash_birch=2)
    assert "too few to tell whether its probabilities are right" in sentences(few, confidence=0.7)[1]
    assert "underconfident" in sentences(right(5, 5, 5), confidence=0.4)[1]


def test_images_of_one_class_alone_show_little() -> None:
    assert "so a constant answer would do as well" in sentences(right(20, 0, 0))[0]
    assert "so a constant answer would be right on all" in sentences(right(19, 0, 0, ash_birch=1))[0]


def test_one_image_is_said_in_the_singular() -> None:
    good, sure, _ = sentences(right(1, 0, 0), what="validation", confidence=0.6)
    assert good.startswith("It is right on 1 of 1 validation image (100.0%)")
    assert sure.startswith("As this is 1 image, its accuracy may be anywhere")
    assert sure.endswith("; it is too few to tell whether its probabilities are right.")


@pytest.mark.parametrize("mistakes", [4, 5, 6, 7])
def test_more_images_are_advised_where_a_better_model_could_not_be_told_from_it(mistakes: int) -> None:
    best = compare_paired(np.arange(200) >= mistakes, np.full(200, True))
    advice = sentences(right(100, 100 - mistakes, 0, birch_ash=mistakes), mode="freeze", training_images={})[2]
    assert advice.startswith("More labelled images to evaluate it on") == (best.p >= SIGNIFICANT)


OTHERS = [
    (GOOD, {"doubtful": 10, "mode": "freeze"}, "Look at the 10 images whose labels look wrong: 10 of its 30 mistakes."),
    (GOOD, {"doubtful": 2, "mode": "freeze"}, "Fine-tune the backbone"),
    (
        GOOD,
        {"doubtful": 3, "mode": "freeze", "larger_model": "big"},
        "--model big; also look at the 3 labels that look",
    ),
    (right(90, 99, 99, ash_birch=10), {"doubtful": 1}, "; also look at the label that looks wrong."),
    (GOOD, {"mode": "freeze", "larger_model": "big"}, "or try --model big."),
    (GOOD, {"mode": "auto", "fine_tuning_failed": True}, "A larger backbone or more images"),
    (GOOD, {"mode": "scratch"}, "Pretrained weights"),
    (right(90, 90, 88, ash_birch=10, birch_cedar=10, cedar_ash=12), {"mode": "finetune"}, "cedar taken for ash (12)"),
    (WEAK, {"mode": "freeze"}, "More images of cedar"),
    (right(999, 999, 999, ash_birch=1), {"mode": "freeze"}, "Nothing needs to be done"),
    (right(5, 5, 5), {"mode": "freeze"}, "More labelled images to evaluate it on"),
    (right(0, 0, 0, ash_birch=1), {"mode": "freeze"}, "More labelled images to evaluate it on"),
    (right(18, 18, 15, cedar_ash=4), {"mode": "freeze"}, "Fine-tune the backbone"),
    (GOOD, {"training_images": {"ash": 8, "birch": 9, "cedar": 8}}, "8 to 9 of each class are few"),
    (GOOD, {"training_images": {"ash": 8, "birch": 8, "cedar": 8}}, "images: 8 of each class are few"),
    (GOOD, {"training_images": {"ash": 8, "birch": 90, "cedar": 80}}, "first of ash, which has only 8"),
    (GOOD, {"training_images": {}}, "most often ash taken for birch"),
]


@pytest.mark.parametrize(("counts", "about", "words"), OTHERS)
def test_what_would_help_most(counts: Counts, about: dict[str, Any], words: str) -> None:
    assert words in sentences(counts, **about)[2]


def test_labels_are_not_added_where_nothing_needs_to_be_done() -> None:
    assert sentences(right(990, 999, 999, ash_birch=10), doubtful=2)[2].endswith("from where it will be used.")


def test_more_images_of_a_weak_class_says_how_many_it_has() -> None:
    advice = sentences(WEAK, mode="freeze")[2]
    assert "60.0% of them are recognised, from 500 training images, against 99.0% of the others" in advice


def test_a_class_that_is_low_by_chance_is_not_blamed() -> None:
    low = right(90, 90, 86, cedar_ash=14, ash_birch=10, birch_ash=10)
    assert "More images of" not in sentences(low, mode="freeze")[2]


@pytest.mark.parametrize(
    "about",
    [
        {"training_images": {"ash": 4, "birch": 5, "cedar": 4}},
        {"weak": True},
        {"mode": "freeze"},
        {"fine_tuning_failed": True, "mode": "finetune"},
        {"mode": "finetune"},
    ],
)
def test_advice_to_get_images_names_the_command_that_says_what_they_bring(about: dict[str, Any]) -> None:
    command, counts = "cnn-tl learning-curve runs/a", WEAK if "weak" in about else GOOD
    about = {key: value for key, value in about.items() if key != "weak"}
    assert command in sentences(counts, ask_for_curve=command, **about)[2]
    assert "learning-curve" not in sentences(counts, **about)[2]
