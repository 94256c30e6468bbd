"""Answers of several models join one to one by content, and the statistics of pairs are the textbook's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from cnn_tl.core.statistics import compare_paired
from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits
from cnn_tl.metrics.paired import disagreements, holm, images_needed, join

CLASSES = ("ash", "birch")


def answers(
    digests: Sequence[str], labels: Sequence[int], logits: Sequence[float], classes: tuple[str, ...] = CLASSES
) -> LabelledAnswers:
    """Return answers to images; a positive logit answers the second class."""
    rows = np.array([[0.0, one] for one in logits])
    return answers_from_logits(rows, np.array(labels), classes, [f"{n}.png" for n in range(len(labels))], digests)


def test_images_join_by_content_in_the_order_of_the_first() -> None:
    first = answers(["a", "b", "c", "d"], [0, 1, 0, 1], [1, 2, 3, 4])
    second = answers(["d", "x", "b", "a"], [1, 0, 1, 0], [40, 9, 20, 10])
    joined = join([first, second])
    assert [one.sha256 for one in joined.answers] == [("a", "b", "d")] * 2
    assert joined.answers[0].files == ("0.png", "1.png", "3.png")
    assert joined.answers[1].files == ("3.png", "2.png", "0.png")
    assert (len(joined), joined.relabelled, joined.trained_on) == (3, 0, 0)
    assert joined.answers[1].losses == pytest.approx(second.losses[[3, 2, 0]])


def test_copies_join_one_to_one_and_never_as_a_product() -> None:
    first = answers(["a", "a", "a", "b"], [0, 0, 0, 1], [1, 1, 1, 1])
    second = answers(["a", "b", "a"], [0, 1, 0], [1, 1, 1])
    joined = join([first, second])
    assert joined.answers[0].files == ("0.png", "1.png", "3.png")
    assert joined.answers[1].files == ("0.png", "2.png", "1.png")


def test_images_of_unknown_content_never_join() -> None:
    assert len(join([answers(["", ""], [0, 1], [1, 1]), answers(["", ""], [0, 1], [1, 1])])) == 0


def test_classes_in_another_order_are_the_same_labels() -> None:
    other = answers(["a", "b"], [1, 0], [5, -5], classes=("birch", "ash"))
    joined = join([answers(["a", "b"], [0, 1], [-5, -5]), other])
    assert len(joined) == 2
    assert [one.right.tolist() for one in joined.answers] == [[True, False], [True, True]]


def test_relabelled_and_trained_on_images_are_left_out_and_counted() -> None:
    first = answers(["a", "b", "c"], [0, 1, 0], [1, 1, 1])
    second = answers(["a", "b", "c"], [0, 0, 0], [1, 1, 1])
    joined = join([first, second], trained_on={"c", "elsewhere"})
    assert joined.answers[0].sha256 == ("a",)
    assert (joined.relabelled, joined.trained_on) == (1, 1)


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """Holm's p of a hypothesis is the largest Bonferroni p of any set of hypotheses that contains it."""
    ps = [0.03, 0.004, 0.6, 0.02]
    indices = range(len(ps))
    sets = [chosen for size in range(1, 5) for chosen in itertools.combinations(indices, size)]
    expected = [
        max(min(1.0, len(chosen) * min(ps[k] for k in chosen)) for chosen in sets if i in chosen) for i in indices
    ]
    assert holm(ps) == pytest.approx(expected)
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


def test_holm_equals_statsmodels() -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    ps = np.random.default_rng(0).uniform(0, 0.2, 12)
    assert holm(ps.tolist()) == pytest.approx(multitest.multipletests(ps, method="holm")[1].tolist())


def test_so_many_images_as_needed_find_the_difference_four_times_in_five() -> None:
    first = np.array([True] * 30 + [False] * 50 + [True] * 920)
    second = np.array([False] * 30 + [True] * 50 + [True] * 920)
    needed = images_needed(compare_paired(first, second), 1000)
    assert needed is not None
    random = np.random.default_rng(0)
    drawn = random.multinomial(needed, [0.03, 0.05, 0.92], 4000)
    only_first, only_second = drawn[:, 0], drawn[:, 1]
    z = (only_second - only_first) / np.sqrt(only_first + only_second)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.03)


def test_equally_good_models_need_no_number_of_images() -> None:
    same = np.array([True, False])
    assert images_needed(compare_paired(same, ~same), 2) is None
    assert images_needed(compare_paired(same, same), 2) is None


def test_the_most_confident_mistakes_come_first() -> None:
    first = answers(["a", "b", "c", "d"], [0, 0, 0, 0], [1.0, 3.0, -1.0, 2.0])
    second = replace(first, ranked=1 - first.ranked)
    assert disagreements(first, second).tolist() == [1, 3, 0]
    assert disagreements(second, first).tolist() == [2]
    assert math.isclose(second.confidence[2], 1 / (1 + math.exp(-1)))
