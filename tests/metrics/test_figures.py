"""Figures against scikit-learn's, on answers that are drawn at random."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from cnn_tl.core.statistics import softmax
from cnn_tl.metrics.answers import LabelledAnswers, answers_from_logits, class_distances
from cnn_tl.metrics.figures import figures_of


def drawn(images: int, classes: int, *, seed: int = 0) -> tuple[LabelledAnswers, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, max(2, classes - 1), images)  # the last class has no images
    logits_NK = rng.normal(size=(images, classes)).astype(np.float32)
    logits_NK[np.arange(images), labels_N] += 1.5
    names = [f"class {k}" for k in range(classes)]
    answers = answers_from_logits(logits_NK, labels_N, names, [f"{i}.jpg" for i in range(images)])
    return answers, logits_NK, labels_N


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_figures_equal_scikit_learn(classes: int) -> None:
    answers, logits_NK, labels_N = drawn(400, classes)
    found, predicted_N = figures_of(answers), logits_NK.argmax(1)
    assert found.accuracy == sk.accuracy_score(labels_N, predicted_N)
    assert found.balanced_accuracy == pytest.approx(
        np.mean([(predicted_N == labels_N)[labels_N == k].mean() for k in np.unique(labels_N)])
    )
    for kind in ("macro", "weighted"):
        expected = sk.precision_recall_fscore_support(labels_N, predicted_N, average=kind, zero_division=0)[:3]
        averages = getattr(found, kind)
        assert (averages.precision, averages.recall, averages.f1) == pytest.approx(expected)
    everything = list(range(classes))
    assert found.log_loss == pytest.approx(sk.log_loss(labels_N, softmax(logits_NK), labels=everything))
    assert (found.confusion == sk.confusion_matrix(labels_N, predicted_N, labels=everything)).all()
    for k, share in enumerate(found.top_k[: classes - 1], start=1):
        expected_k = sk.top_k_accuracy_score(labels_N, logits_NK, k=k, labels=everything) if classes > 2 else None
        assert expected_k is None or share == pytest.approx(expected_k)


def test_a_class_without_images_or_answers_has_no_ratio() -> None:
    logits_NK = np.array([[3.0, 0, -9], [3.0, 1, -9]], np.float32)
    figures = figures_of(answers_from_logits(logits_NK, np.array([0, 1]), "abc", ["x", "y"]))
    assert figures.per_class["c"].f1 is None
    assert figures.per_class["b"].precision is None
    assert figures.per_class["b"].recall == 0.0
    assert figures.confused() == [(1, 1, 0)]


def test_bins_hold_each_answer_once() -> None:
    answers, _, _ = drawn(300, 5)
    bins = figures_of(answers).calibration
    assert sum(one.images for one in bins) == 300
    assert all(one.low <= one.confidence <= one.high and 0 <= one.right <= one.images for one in bins)


def of_confidence(confidence_N: np.ndarray, right_N: np.ndarray) -> LabelledAnswers:
    """Return answers of two classes, all of them the first, with these probabilities."""
    labels_N = np.where(right_N, 0, 1)
    ranked_NT = np.zeros((len(labels_N), 1), np.int64)
    unknown_N = np.full(len(labels_N), np.nan)
    names = tuple(map(str, range(len(labels_N))))
    return LabelledAnswers(("a", "b"), names, names, labels_N, ranked_NT, confidence_N[:, None], unknown_N, unknown_N)


def test_the_calibration_error_is_that_of_scikit_learns_curve_in_15_bins() -> None:
    """The mean gap of the bins, each with its share of the answers."""
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.3, 1, 500)
    right = draw.random(500) < confidence**3
    accuracies, means = calibration_curve(right, confidence, n_bins=15)
    counts = np.histogram(confidence, np.linspace(0, 1, 16))[0]
    expected = float(np.abs(accuracies - means) @ counts[counts > 0] / 500)
    assert figures_of(of_confidence(confidence, right)).calibration_error == pytest.approx(expected)


def test_fifteen_bins_by_hand() -> None:
    """0.61 and 0.69 share a bin of ten and not one of fifteen, where they cannot make up for each other."""
    two = of_confidence(np.array([0.61, 0.69]), np.array([True, False]))
    assert figures_of(two).calibration_error == pytest.approx((0.39 + 0.69) / 2)
    assert figures_of(of_confidence(np.array([1.0]), np.array([True]))).calibration_error == 0


def test_the_strangest_image_is_the_one_unlike_its_class() -> None:
    logits_NK = np.array([[4.0, 0], [4.1, 0], [3.9, 0], [0, 4.0], [0, 4.2], [3.0, 0]])
    distances_N = class_distances(logits_NK, np.array([0, 0, 0, 1, 1, 1]))
    assert distances_N.argmax() == 5
    assert class_distances(logits_NK + 7, np.array([0, 0, 0, 1, 1, 1])) == pytest.approx(distances_N)


def test_the_probability_of_the_label_survives_underflow() -> None:
    answers = answers_from_logits(np.array([[2000.0, 0]], np.float32), np.array([1]), "ab", ["x"])
    assert answers.losses[0] == pytest.approx(2000)
    assert answers.of_label[0] == 0.0
