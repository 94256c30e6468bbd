"""What is said of one image."""

import math

import numpy as np
import pytest

from cnn_tl.abstention.conformal import members
from cnn_tl.abstention.rule import Rule

SURE, DOUBTFUL = np.array([0.9, 0.08, 0.02]), np.array([0.2, 0.45, 0.35])


@pytest.mark.parametrize(
    ("probabilities", "distance", "verdict"),
    [
        (SURE, 0.5, "answered"),
        (SURE, 1.0, "answered"),  # at the limit itself
        (SURE, 1.0001, "unknown"),
        (DOUBTFUL, 0.5, "unsure"),
        (DOUBTFUL, 1.5, "unknown"),  # what it says of an image unlike all others does not matter
        (DOUBTFUL, None, "unsure"),
        (SURE, None, "answered"),
    ],
)
def test_verdicts(probabilities: np.ndarray, distance: float | None, verdict: str) -> None:
    rule = Rule(least_confidence=0.6, most_distance=1.0)
    assert rule.judge(probabilities, distance).verdict == verdict


def test_a_rule_without_thresholds_answers_everything() -> None:
    assert Rule().judge(DOUBTFUL, 1e9).verdict == "answered"
    assert Rule().judge(DOUBTFUL, math.inf).members is None


def test_confidence_at_the_threshold_is_enough() -> None:
    assert Rule(least_confidence=0.9).judge(SURE).verdict == "answered"
    assert Rule(least_confidence=np.nextafter(0.9, 1)).judge(SURE).verdict == "unsure"


def test_members_are_the_classes_above_their_thresholds_the_most_probable_first() -> None:
    assert Rule(least=np.array([0.1, 0.1, 0.1])).judge(DOUBTFUL).members == (1, 2, 0)
    assert Rule(least=np.array([0.3, 0.4, 0.3])).judge(DOUBTFUL).members == (1, 2)


def test_the_answer_is_in_its_set_even_below_the_threshold_of_its_class() -> None:
    assert Rule(least=np.array([0.3, 0.5, 0.3])).judge(DOUBTFUL).members == (1, 2)


def test_sets_are_those_that_evaluate_counts() -> None:
    chance = np.random.default_rng(0)
    probabilities_NK = chance.dirichlet(np.ones(5), 300)
    least_K = chance.uniform(0.1, 0.6, 5)
    counted_NK = members(probabilities_NK, least_K)
    for probabilities_K, counted_K in zip(probabilities_NK, counted_NK, strict=True):
        found = Rule(least=least_K).judge(probabilities_K).members
        assert found is not None
        assert set(found) == set(np.flatnonzero(counted_K))


def test_a_set_is_never_empty() -> None:
    assert Rule(least=np.array([0.99, 0.99, 0.99])).judge(DOUBTFUL).members == (1,)
