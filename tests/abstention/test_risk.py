"""Promises about errors are kept as often as they say, and curves and areas equal those of other implementations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cnn_tl.abstention import risk
from cnn_tl.abstention.risk import auroc, images_needed, least_confidence, risk_coverage


def answers(images: int, seed: int) -> tuple[Any, Any]:
    """Return confidences [n] and whether answers are right [n]: (1 - confidence)^2 is the chance of an error."""
    chance = np.random.default_rng(seed)
    confidence_n = chance.random(images)
    return confidence_n, chance.random(images) >= (1 - confidence_n) ** 2


def error_from(least: float) -> float:
    """Return the true error of all answers at least so confident, for images like these."""
    return (1 - least) ** 2 / 3


@pytest.mark.parametrize(("max_error", "images"), [(0.05, 300), (0.1, 100), (0.1, 1000), (0.2, 500)])
def test_a_promise_is_kept_in_95_of_100(max_error: float, images: int) -> None:
    made = [least_confidence(*answers(images, seed), max_error) for seed in range(1000)]
    promised = [one.least for one in made if one.least is not None]
    assert len(promised) > 250
    broken = sum(error_from(least) > max_error for least in promised)
    assert broken <= 50 + 2.5 * math.sqrt(1000 * 0.05 * 0.95)
    assert broken > 0  # else it promises too little


def test_it_answers_nearly_all_that_it_could() -> None:
    best = math.sqrt(3 * 0.1)  # the share for which the error is 10%
    shares = [least_confidence(*answers(2000, seed), 0.1).answered for seed in range(50)]
    assert 0.85 * best < np.mean(shares) < best


def test_one_early_mistake_among_many_images_costs_nothing() -> None:
    confidence_n = np.linspace(1, 0.5, 1000)
    right_n = np.ones(1000, bool)
    right_n[3] = False
    assert least_confidence(confidence_n, right_n, 0.05).answered == 1
    few = least_confidence(confidence_n[:100], right_n[:100], 0.05)
    assert (few.least, few.tested, few.wrong) == (None, 59, 1)


@pytest.mark.parametrize(("max_error", "level"), [(0.05, 0.95), (0.001, 0.95), (0.4, 0.95), (0.1, 0.8)])
def test_mistakes_are_allowed_where_binomial_tails_of_scipy_are_small(max_error: float, level: float) -> None:
    from scipy.stats import binom

    steps = risk._steps(6000, max_error, level)
    assert steps[0] == images_needed(max_error, level)
    mistakes = np.arange(len(steps))
    assert (binom.cdf(mistakes, steps, max_error) <= 1 - level).all()
    assert (binom.cdf(mistakes, np.array(steps) - 1, max_error) > 1 - level).all()
    assert binom.cdf(len(steps), 6000, max_error) > 1 - level


@pytest.mark.parametrize("images", [59, 60, 92, 93, 400, 1000, 5000])
def test_ranks_are_tested_from_a_sixth_to_all(images: int) -> None:
    steps = risk._steps(images, 0.05, 0.95)
    ranks = risk._tested_ranks(images, steps)
    assert ranks[-1] == images
    assert ranks[0] in steps
    assert ranks[0] == 59 or images / 6 - 35 < ranks[0] <= images / 6
    assert (np.diff(ranks) >= 0).all()
    assert {59, 60, 75} <= set(ranks.tolist()) or images < 75 or images > 600
    assert not {80, 92} & set(ranks.tolist()) or images == 92  # the second mistake is allowed at 93


def test_the_images_that_are_tested_are_those_that_would_be_answered() -> None:
    confidence_n, right_n = answers(500, 1)
    found = least_confidence(confidence_n, right_n, 0.1)
    assert found.least is not None
    kept = confidence_n >= found.least
    assert kept.sum() == found.tested == round(found.answered * 500)
    assert (~right_n[kept]).sum() == found.wrong
    assert 0 < found.wrong < 0.1 * found.tested


def test_equal_confidences_are_answered_together() -> None:
    confidence_n = np.repeat([0.9, 0.6], [100, 100])
    right_n = np.ones(200, bool)
    right_n[190:] = False
    found = least_confidence(confidence_n, right_n, 0.05)
    assert found.tested == 100
    assert found.least is not None
    assert 0.6 < found.least <= 0.9
    right_n[100:103] = False  # the first of the others, if the order decided
    assert least_confidence(confidence_n, right_n, 0.05) == least_confidence(confidence_n[::-1], right_n[::-1], 0.05)


def test_without_mistakes_everything_is_answered() -> None:
    confidence_n = np.random.default_rng(0).random(80)
    assert least_confidence(confidence_n, np.ones(80, bool), 0.05).least == 0


@pytest.mark.parametrize(("max_error", "needed"), [(0.05, 59), (0.01, 299), (0.1, 29), (0.5, 5), (0.9, 2)])
def test_how_many_images_are_needed(max_error: float, needed: int) -> None:
    assert images_needed(max_error) == needed
    right_n = np.ones(needed, bool)
    assert least_confidence(right_n / 1.0, right_n, max_error).least == 0
    refused = least_confidence(right_n[1:] / 1.0, right_n[1:], max_error)
    assert refused.too_few
    assert refused.least is None
    assert refused.answered == 0


def test_a_stricter_level_needs_more() -> None:
    assert images_needed(0.05, 0.99) == 90
    confidence_n, right_n = answers(1000, 0)
    shares = [least_confidence(confidence_n, right_n, 0.1, level).answered for level in (0.8, 0.95, 0.99)]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) == 3


@pytest.mark.parametrize("values", [(0, 0.95), (1, 0.95), (-0.1, 0.95), (math.nan, 0.95), (0.05, 1), (0.05, 0)])
def test_shares_that_cannot_be_are_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="max_error"):
        images_needed(*values)


def test_it_says_in_words_what_is_promised_and_why_not() -> None:
    confidence_n = np.linspace(1, 0.5, 75)
    right_n = np.ones(75, bool)
    assert least_confidence(confidence_n[:45], right_n[:45], 0.05).text == (
        "at most 5% wrong cannot be promised: that needs at least 59 held-out images, there are 45"
    )
    right_n[[30, 40, 50]] = False
    assert least_confidence(confidence_n, right_n, 0.05).text == (
        "no confidence is enough for at most 5% wrong: among the 59 most confident of 75 held-out images 3 are wrong"
    )
    assert least_confidence(confidence_n, right_n, 0.25).text == (
        "at most 25% of the answers are wrong, with 95% confidence, at any probability: "
        "100.0% of 75 held-out images, 3 wrong"
    )
    right_n[60:] = False
    assert least_confidence(confidence_n, right_n, 0.2).text == (
        "at most 20% of the answers are wrong, with 95% confidence, where the probability is at least 56.8%: "
        "85.3% of 75 held-out images, 7 wrong"
    )


def test_the_curve_is_the_error_among_the_most_confident() -> None:
    confidence_N, right_N = answers(101, 4)
    found = risk_coverage(confidence_N, right_N)
    order = np.argsort(-confidence_N)
    for count in (1, 2, 50, 101):
        assert found.risk[count - 1] == pytest.approx(1 - right_N[order[:count]].mean())
        assert found.coverage[count - 1] == pytest.approx(count / 101)
    assert found.aurc == pytest.approx(np.mean([1 - right_N[order[:count]].mean() for count in range(1, 102)]))
    assert found.risk_at(1) == found.risk[-1]
    assert found.risk_at(0.5) == found.risk[50]  # 51 of 101 are at least half
    assert found.risk_at(0) == found.risk[0]


def test_the_curve_does_not_depend_on_the_order_of_equal_confidences() -> None:
    confidence_N = np.repeat([0.9, 0.5, 0.2], [10, 20, 10])
    right_N = np.random.default_rng(0).random(40) < 0.7
    shuffled = np.random.default_rng(1).permutation(40)
    first, second = risk_coverage(confidence_N, right_N), risk_coverage(confidence_N[shuffled], right_N[shuffled])
    np.testing.assert_allclose(first.risk, second.risk)
    flat = risk_coverage(np.zeros(40), right_N)
    np.testing.assert_allclose(flat.risk, 1 - right_N.mean())
    assert flat.aurc == pytest.approx(1 - right_N.mean())


def test_the_best_order_has_no_excess() -> None:
    right_N = np.arange(100) < 80
    best, worst = risk_coverage(-np.arange(100), right_N), risk_coverage(np.arange(100), right_N)
    assert best.excess_aurc == pytest.approx(0)
    assert best.least_aurc == worst.least_aurc > 0
    assert worst.excess_aurc > 0.3
    bound = 0.2 + 0.8 * math.log(0.8)  # Geifman et al. 2018, eq. 5, for many images
    big = risk_coverage(-np.arange(10_000), np.arange(10_000) < 8000)
    assert big.least_aurc == pytest.approx(bound, abs=1e-4)


def test_a_curve_of_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        risk_coverage(np.empty(0), np.empty(0, bool))


def test_auroc_equals_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    chance = np.random.default_rng(0)
    for known, unknown in ((chance.random(50), chance.random(70) + 0.2), (chance.integers(0, 5, 40), np.arange(7))):
        truth = np.repeat([0, 1], [len(known), len(unknown)])
        assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.concatenate([known, unknown])))
    assert auroc(np.arange(3), np.arange(3, 5)) == 1
    assert auroc(np.zeros(3), np.zeros(2)) == 0.5
    with pytest.raises(ValueError, match="0 unknown"):
        auroc(np.zeros(3), np.empty(0))
