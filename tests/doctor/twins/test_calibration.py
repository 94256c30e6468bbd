"""Probabilities that mean what they say, on pairs whose truth is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.doctor.twins.calibration import LEAST, PRECISION, calibrate, evidence, fit, probability, threshold


def drawn(share: float, count: int, distance: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return made twins [300, 3], real pairs [count, 3] and which of these are twins."""
    rng = np.random.default_rng(seed)
    twin = rng.random(count) < share
    pairs = rng.normal(0, 1, (count, 3)) + distance * twin[:, None]
    return rng.normal(distance, 1, (300, 3)), pairs, twin


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_the_share_of_twins_is_found_and_the_precision_is_as_stated(share: float) -> None:
    made, pairs, twin = drawn(share, 4000, 2.5, seed=1)
    chance = calibrate(made, pairs)(pairs)
    assert chance.sum() == pytest.approx(twin.sum(), rel=0.15)
    limit, precision = threshold(chance)
    chosen = chance >= limit
    assert precision is not None
    assert precision >= PRECISION
    assert twin[chosen].mean() == pytest.approx(precision, abs=0.05)
    assert chosen[twin].mean() > 0.7


def test_without_twins_next_to_nothing_is_verified() -> None:
    made, pairs, _ = drawn(0.0, 4000, 2.0, seed=2)
    chance = calibrate(made, pairs)(pairs)
    assert (chance >= threshold(chance)[0]).sum() <= 3


def test_pairs_as_alike_as_made_twins_are_not_all_verified() -> None:
    """Digits: what is made of one is no more like it than others are."""
    made, pairs, _ = drawn(0.0, 4000, 0.2, seed=3)
    chance = calibrate(made, pairs)(pairs)
    assert (chance >= threshold(chance)[0]).sum() <= 3


def test_a_single_twin_is_verified() -> None:
    made, pairs, _ = drawn(0.0, 300, 8.0, seed=4)
    pairs[17] = 8
    chance = calibrate(made, pairs)(pairs)
    assert np.flatnonzero(chance >= threshold(chance)[0]).tolist() == [17]


def test_twins_of_a_small_folder_are_verified_though_made_ones_scatter_more() -> None:
    """Made twins are changed in many ways, real ones in one: they would be lost among the others that they begin in."""
    rng = np.random.default_rng(8)
    made = rng.normal(3, 1.5, (240, 3))
    pairs = np.concatenate([rng.normal(2, 0.2, (9, 3)), rng.normal(0, 0.4, (340, 3))])
    chance = calibrate(made, pairs)(pairs)
    assert np.flatnonzero(chance >= threshold(chance)[0]).tolist() == list(range(9))


def test_no_weight_is_negative_though_made_twins_are_less_alike_in_one_way() -> None:
    made, pairs, _ = drawn(0.0, 1000, 2.0, seed=5)
    made[:, 1] -= 4
    logistic = fit(made, pairs, np.ones(len(pairs)))
    assert logistic.weights[1] == 0
    assert (logistic.weights[[0, 2]] > 0).all()


def test_a_direction_without_spread_has_no_weight() -> None:
    made, pairs, _ = drawn(0.0, 500, 3.0, seed=6)
    made[:, 2], pairs[:, 2] = 0, 0
    logistic = fit(made, pairs, np.ones(len(pairs)))
    assert logistic.weights[2] == 0
    assert np.isfinite(logistic(pairs)).all()


def test_the_fit_is_the_minimum_of_the_penalised_loss() -> None:
    made, pairs, _ = drawn(0.0, 700, 1.0, seed=7)
    logistic = fit(made, pairs, np.ones(len(pairs)))
    rows = (np.concatenate([made, pairs]) - logistic.centre) / logistic.spread
    target = np.repeat([1.0, 0.0], [len(made), len(pairs)])
    counts = np.repeat([1.0, len(made) / len(pairs)], [len(made), len(pairs)])
    error = counts * (probability(rows @ logistic.weights + logistic.bias) - target)
    np.testing.assert_allclose(rows.T @ error + 0.03 * logistic.weights, 0, atol=1e-6)
    assert error.sum() == pytest.approx(0, abs=1e-4)


def test_threshold_of_a_list() -> None:
    assert threshold(np.array([0.2, 0.99, 0.98, 0.6])) == (0.98, pytest.approx(0.985))
    assert threshold(np.array([0.2, 0.99, 0.98])) == (LEAST, pytest.approx(0.985))
    assert threshold(np.array([0.9, 0.4])) == (PRECISION, None)
    assert threshold(np.empty(0)) == (PRECISION, None)


def test_evidence_rises_with_likeness() -> None:
    measures = np.array(
        [[0.5, 0.5, 0.5, 0.5, 0.2, 0.5, 0.3, 0.1], [0.9, 0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.0]], np.float32
    )
    found = evidence(np.array([0.2, 0.8], np.float32), measures)
    assert found.shape == (2, 8)
    assert (found[1] > found[0]).all()
    assert np.isfinite(evidence(np.array([1.0, -1.0], np.float32), np.sign(measures))).all()
