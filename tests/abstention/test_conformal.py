"""Sets of classes: they hold the true class as often as promised, and equal MAPIE's on the same scores."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from cnn_tl.abstention import conformal
from cnn_tl.abstention.conformal import ENOUGH, SetThresholds, fit_sets, images_needed, members
from cnn_tl.core.statistics import softmax


def fitted(probabilities_nK: np.ndarray, labels_n: np.ndarray, coverage: float = 0.95) -> SetThresholds | None:
    """Fit sets to all probabilities."""
    true_n = probabilities_nK[np.arange(len(labels_n)), labels_n]
    return fit_sets(true_n, labels_n, probabilities_nK.shape[1], coverage)


def scores(images: int, classes: int, seed: int, shares: list[float] | None = None) -> tuple[Any, Any]:
    """Return probabilities [n, K] of a model that is right on about 3 of 4 images, and true classes [n]."""
    chance = np.random.default_rng(seed)
    labels_n = chance.choice(classes, images, p=shares)
    logits_nK = chance.normal(size=(images, classes))
    logits_nK[np.arange(images), labels_n] += 1.5 + 0.3 * labels_n  # the first class is the most difficult
    return softmax(logits_nK), labels_n


def coverage_of(found: conformal.SetThresholds, probabilities_NK: Any, labels_N: Any) -> Any:
    return members(probabilities_NK, found.least)[np.arange(len(labels_N)), labels_N]


@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_hold_the_truth_as_often_as_promised(coverage: float) -> None:
    means = []
    others, truth = scores(4000, 4, 999)
    for seed in range(200):
        found = fitted(*scores(150, 4, seed), coverage)
        assert found is not None
        assert not found.own.any()
        means.append(coverage_of(found, others, truth).mean())
    noise = math.sqrt(coverage * (1 - coverage) / 150 / 200) + math.sqrt(coverage * (1 - coverage) / 4000)
    assert coverage - 3 * noise < np.mean(means) < coverage + 1 / 151 + 3 * noise


def test_every_class_with_enough_images_is_covered() -> None:
    probabilities_nK, labels_n = scores(3000, 3, 0)
    others, truth = scores(20_000, 3, 999)
    found = fitted(probabilities_nK, labels_n)
    assert found is not None
    assert found.own.all()
    for k in range(3):
        assert coverage_of(found, others, truth)[truth == k].mean() == pytest.approx(0.95, abs=0.02)
    one_for_all = np.quantile(probabilities_nK[np.arange(3000), labels_n], 0.05)
    assert (others[truth == 0, 0] >= one_for_all).mean() < 0.93  # which own thresholds have mended


def test_classes_with_few_images_share_a_threshold() -> None:
    probabilities_nK, labels_n = scores(1000, 4, 1, [0.45, 0.35, 0.15, 0.05])
    found = fitted(probabilities_nK, labels_n)
    assert found is not None
    assert found.own.tolist() == [True, True, False, False]
    assert found.least[2] == found.least[3]
    assert len(set(found.least.tolist())) == 3
    few = np.isin(labels_n, (2, 3))
    assert len(labels_n[few]) >= ENOUGH * 0.9
    rank = math.ceil((few.sum() + 1) * 0.95)
    true_n = probabilities_nK[np.arange(1000), labels_n]
    assert found.least[2] == pytest.approx(np.sort(true_n[few])[::-1][rank - 1])


def test_few_images_in_all_join_the_smallest_class() -> None:
    labels_n = np.repeat([0, 1, 2, 3], [ENOUGH + 100, ENOUGH, 50, 0])
    found = fitted(scores(len(labels_n), 4, 2)[0], labels_n)
    assert found is not None
    assert found.own.tolist() == [True, False, False, False]  # 50 images alone would make a poor threshold
    alone = fitted(scores(100, 4, 2)[0], labels_n[:100])
    assert alone is not None
    assert len(set(alone.least.tolist())) == 1


def test_no_set_is_empty_and_the_most_probable_class_is_in_it() -> None:
    probabilities_nK, labels_n = scores(400, 3, 3)
    labels_n = probabilities_nK.argmax(1)  # never wrong, so the thresholds are high
    found = fitted(probabilities_nK, labels_n)
    assert found is not None
    unsure = np.array([[0.333, 0.334, 0.333]])
    assert (unsure < found.least).all()
    assert members(unsure, found.least).tolist() == [[False, True, False]]
    assert members(np.empty((0, 3)), found.least).shape == (0, 3)


def test_a_threshold_in_float32_never_excludes_the_image_that_it_is_of() -> None:
    for seed in range(20):
        probabilities_nK, labels_n = scores(19, 3, seed)
        found = fitted(probabilities_nK, labels_n)  # the rank is 19 of 19: all true classes are in
        assert found is not None
        assert found.least.dtype == np.float32
        assert coverage_of(found, probabilities_nK, labels_n).all()


@pytest.mark.parametrize(("coverage", "needed"), [(0.95, 19), (0.9, 9), (0.99, 99), (0.5, 1), (0.8, 4)])
def test_too_few_images_are_refused(coverage: float, needed: int) -> None:
    assert images_needed(coverage) == needed
    assert fitted(*scores(needed - 1, 3, 0), coverage) is None
    assert fitted(*scores(needed, 3, 0), coverage) is not None


@pytest.mark.parametrize("coverage", [0, 1, 1.5, -0.1, math.nan])
def test_a_coverage_that_cannot_be_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage"):
        fitted(*scores(50, 3, 0), coverage)


needs_mapie = pytest.mark.skipif(find_spec("mapie") is None, reason="mapie, the other implementation, is not installed")


def given_probabilities() -> Any:
    """Return a classifier of scikit-learn whose input are the probabilities."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Given(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        def fit(self, x: Any, y: Any) -> Any:
            self.classes_ = np.arange(x.shape[1])
            return self

        def predict_proba(self, x: Any) -> Any:
            return x

        def predict(self, x: Any) -> Any:
            return x.argmax(1)

    return Given()


@needs_mapie
@pytest.mark.parametrize("images", [25, 100, 137, 199])
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_sets_and_threshold_equal_those_of_mapie(images: int, coverage: float) -> None:
    from mapie.classification import SplitConformalClassifier

    probabilities_nK, labels_n = scores(images, 5, images)
    others_NK, _ = scores(500, 5, 7)
    theirs = SplitConformalClassifier(
        given_probabilities().fit(probabilities_nK, labels_n), coverage, conformity_score="lac", prefit=True
    )
    theirs.conformalize(probabilities_nK, labels_n)
    _, sets_NK1 = theirs.predict_set(others_NK)
    top_NK = others_NK == others_NK.max(1, keepdims=True)  # which LAC leaves out of some sets
    ours = fitted(probabilities_nK, labels_n, coverage)
    assert ours is not None
    assert (members(others_NK, ours.least) == (sets_NK1[:, :, 0] | top_NK)).all()
    quantile = theirs._mapie_classifier.conformity_score_function_.quantiles_
    np.testing.assert_allclose(ours.least, 1 - quantile[0], atol=1e-7)


@needs_mapie
def test_sets_equal_those_of_mapie_from_scores_of_all_folds() -> None:
    from mapie.classification import CrossConformalClassifier

    probabilities_nK, labels_n = scores(150, 5, 3)
    others_NK, _ = scores(500, 5, 7)
    theirs = CrossConformalClassifier(given_probabilities(), 0.9, conformity_score="lac", cv=5)
    theirs.fit_conformalize(probabilities_nK, labels_n)
    _, sets_NK1 = theirs.predict_set(others_NK)
    ours = fitted(probabilities_nK, labels_n, 0.9)
    assert ours is not None
    top_NK = others_NK == others_NK.max(1, keepdims=True)
    assert (members(others_NK, ours.least) == (sets_NK1[:, :, 0] | top_NK)).all()
