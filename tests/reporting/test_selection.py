"""Which images a page shows."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits
from cnn_tl.reporting import galleries, selection
from cnn_tl.reporting.heat_maps import HeatMaps
from cnn_tl.reporting.thumbnails import Thumbnails

CLASSES = ("ash", "birch", "cedar")


def answers(rows: list[list[float]], labels: list[int], *, old: bool = False) -> LabelledAnswers:
    """Return answers with these probabilities; as an old run has them, only those of the answer are known."""
    names = [f"{number}.png" for number in range(len(rows))]
    made = answers_from_logits(np.log(np.array(rows)), np.array(labels), CLASSES, names)
    if not old:
        return made
    unknown = np.full(len(rows), np.nan)
    best = made.ranked[:, :1], made.probabilities[:, :1]
    return LabelledAnswers(made.classes, made.files, made.sha256, made.labels, *best, unknown, unknown)


MIXED = (
    [[0.9, 0.05, 0.05], [0.4, 0.35, 0.25], [0.2, 0.7, 0.1], [0.01, 0.98, 0.01], [0.1, 0.8, 0.1], [0.1, 0.6, 0.3]],
    [0, 0, 0, 0, 1, 1],
)


@pytest.mark.parametrize("old", [False, True])
def test_mistakes_come_most_confident_first_and_right_answers_least_sure_first(old: bool) -> None:
    made = answers(*MIXED, old=old)
    assert selection.worst_mistakes(made, 9) == [3, 2]
    assert selection.worst_mistakes(made, 1) == [3]
    assert selection.least_sure(made, 3) == [1, 5, 4]


@pytest.mark.parametrize("old", [False, True])
def test_a_label_is_doubtful_if_another_class_is_as_probable_as_for_its_own_images(old: bool) -> None:
    """Image 3 gets 98% for birch, more than birch images do on average (70%); image 2 has 20% left for its label."""
    assert selection.doubtful_labels(answers(*MIXED, old=old)) == [3]


def test_no_label_is_doubtful_for_an_answer_less_sure_than_usual() -> None:
    rows = [[0.02, 0.6, 0.38], [0.05, 0.9, 0.05], [0.01, 0.95, 0.04]]
    assert selection.doubtful_labels(answers(rows, [0, 1, 1])) == []


def test_no_label_is_doubtful_for_an_answer_that_is_itself_improbable() -> None:
    rows = [[0.04, 0.35, 0.31, 0.3], [0.3, 0.34, 0.2, 0.16]]
    assert selection.doubtful_labels(answers(rows, [0, 1])) == []


def test_no_label_is_doubtful_for_a_class_without_images() -> None:
    assert selection.doubtful_labels(answers([[0.01, 0.01, 0.98], [0.9, 0.05, 0.05]], [0, 0])) == []


def test_typical_images_are_near_the_mean_of_their_class_and_right() -> None:
    rows = [[0.80, 0.1, 0.1], [0.81, 0.1, 0.09], [0.79, 0.1, 0.11], [0.01, 0.98, 0.01], [0.1, 0.8, 0.1]]
    made = answers(rows, [0, 0, 0, 0, 1])
    assert sorted(selection.typical(made, 0, 9)) == [0, 1, 2]
    assert selection.strangest(made, 0, 1) == [3]
    assert selection.typical(made, 2, 9) == selection.strangest(made, 2, 9) == []


def test_an_old_run_ranks_images_of_a_class_by_confidence() -> None:
    made = answers(*MIXED, old=True)
    assert selection.typical(made, 0, 9) == [0, 1]
    assert selection.strangest(made, 0, 2) == [3, 2]


def test_every_chosen_image_is_drawn_once_with_the_worst_mistakes_first() -> None:
    random = np.random.default_rng(0)
    made = answers(random.dirichlet([0.5] * 3, size=400).tolist(), random.integers(0, 3, 400).tolist())
    chosen = galleries.choose(made)
    order = chosen.in_order()
    assert len(set(order)) == len(order)
    assert order[: len(chosen.worst)] == chosen.worst == selection.worst_mistakes(made, galleries.WORST)
    assert set(chosen.least_sure) | set(chosen.classes["cedar"][0]) <= set(order)
    assert chosen.others
    assert all(not made.right[index] for index in chosen.others)


def test_of_many_classes_those_with_the_most_mistakes_are_shown() -> None:
    classes = [f"class {number}" for number in range(1000)]
    labels = np.repeat(np.arange(1000), 3)
    logits = np.zeros((3000, 1000))
    logits[np.arange(3000), labels] = 5
    logits[1500:1503] = 0
    logits[1500:1503, 1] = 5
    chosen = galleries.choose(answers_from_logits(logits, labels, classes, [f"{n}.png" for n in range(3000)]))
    assert "class 500" in chosen.classes
    assert len(chosen.classes) == galleries.OF_CLASSES // 4
    assert len(chosen.in_order()) < 500


def test_of_many_doubtful_labels_only_those_that_are_shown_are_drawn() -> None:
    logits = np.zeros((4000, 2))
    labels = np.repeat([0, 1], 2000)
    logits[np.arange(4000), labels] = 8
    logits[:1000, 1] = 16
    made = answers_from_logits(logits, labels, ("a", "b"), [f"{n}.png" for n in range(4000)])
    chosen = galleries.choose(made)
    assert len(chosen.doubtful) == 1000
    assert len(chosen.in_order()) <= 250
    cards = galleries.cards(made, chosen, Thumbnails(), HeatMaps())
    shown = galleries.galleries(made, chosen, cards)[1]
    assert len(shown.cards) == galleries.DOUBTFUL
    assert shown.text.startswith("1,000 images")
    assert "The 24 least probable labels are shown. Look" in shown.text
