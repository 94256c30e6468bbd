"""What not answering gains, on answers that are drawn at random or made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits
from cnn_tl.metrics.selective import COVERAGES, Signals, abstention_of, check_promise, check_sets, check_unknown


def drawn(images: int, seed: int = 0) -> LabelledAnswers:
    chance = np.random.default_rng(seed)
    labels_N = chance.integers(0, 3, images)
    logits_NK = chance.normal(size=(images, 3))
    logits_NK[np.arange(images), labels_N] += 1.5
    return answers_from_logits(logits_NK, labels_N, ["a", "b", "c"], [f"{i}.jpg" for i in range(images)])


def signals(confidence: list[float], distance: list[float] | None, unknown: list[int], answered: list[int]) -> Signals:
    return Signals(
        np.array(confidence),
        None if distance is None else np.array(distance),
        np.array(unknown, bool),
        np.array(answered, bool),
    )


def test_the_error_falls_with_the_share_answered() -> None:
    answers = drawn(400)
    found = abstention_of(answers)
    assert [row.coverage for row in found.risk] == list(COVERAGES)
    order = np.argsort(-answers.confidence)
    for row in found.risk:
        assert row.images == round(row.coverage * 400)
        assert row.error == pytest.approx((~answers.right[order[: row.images]]).mean())
        assert (answers.confidence >= row.probability).sum() == row.images
    errors = [row.error for row in found.risk]
    assert errors == sorted(errors, reverse=True)
    assert 0 < found.excess_aurc < found.aurc < errors[0]


def test_of_one_image_every_share_is_that_image() -> None:
    found = abstention_of(drawn(1))
    assert {row.images for row in found.risk} == {1}


def test_a_promise_is_checked_on_the_answered_images() -> None:
    answers = drawn(400)
    sure_N = answers.confidence >= 0.8
    found = check_promise(0.1, 0.8, "", answers, sure_N)
    assert (found.max_error, found.least, found.reason) == (0.1, 0.8, "")
    assert (found.answered, found.wrong) == (sure_N.sum(), (~answers.right[sure_N]).sum())
    assert found.coverage == sure_N.mean()
    assert found.error == found.wrong / found.answered > 0
    assert found.interval is not None
    assert found.interval[0] < found.error < found.interval[1]
    nothing = check_promise(0.1, None, "too few", answers, np.zeros(400, bool))
    assert (nothing.error, nothing.interval, nothing.coverage, nothing.reason) == (None, None, 0, "too few")


def test_sets_are_counted() -> None:
    probabilities_NK = np.array([[0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.1, 0.7, 0.2], [0.4, 0.3, 0.3]])
    least_K = np.array([0.5, 0.29, 0.28])  # sets: a; a, b, since the first is always in; b; a, b, c
    found = check_sets(np.log(probabilities_NK), np.array([0, 1, 2, 2]), least_K, 0.9)
    assert (found.coverage, found.held, found.mean_size, found.single) == (0.9, 0.75, 1.75, 0.5)
    assert found.interval == pytest.approx((0.301, 0.954), abs=0.001)


def test_foreign_images_are_told_by_both_signals() -> None:
    known = signals([0.9, 0.8, 0.7, 0.6], [0.2, 0.3, 0.4, 1.1], [0, 0, 0, 1], [1, 1, 1, 0])
    foreign = signals([0.65, 0.95], [1.5, 0.35], [1, 0], [0, 1])
    found = check_unknown("others", 3, known, foreign)
    assert (found.folder, found.images, found.unreadable) == ("others", 2, 3)
    assert (found.called_unknown, found.answered) == (0.5, 0.5)
    assert found.auroc_of_distance == (4 + 2) / 8
    assert found.auroc_of_probability == (3 + 0) / 8
    assert found.auroc_of_both == (3.5 + 1) / 8  # twice the ranks of both: 2, 6, 10, 14 known, 14 and 4 foreign


def test_a_model_without_distances_is_judged_by_probabilities_alone() -> None:
    known, foreign = signals([0.9, 0.8], None, [0, 0], [1, 1]), signals([0.5], None, [0], [1])
    found = check_unknown("others", 0, known, foreign)
    assert (found.auroc_of_distance, found.auroc_of_both, found.called_unknown) == (None, None, None)
    assert found.auroc_of_probability == 1
