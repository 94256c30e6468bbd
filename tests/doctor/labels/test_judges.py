"""Suspects are left out and all images judged again; all backbones count alike."""

from __future__ import annotations

import numpy as np
import pytest
from planted_flips import CLASSES, Blobs, average_precision, blobs

from cnn_tl.doctor.labels import judges
from cnn_tl.doctor.labels.confident import suspects_of
from cnn_tl.doctor.labels.judges import Judged, judge, to_leave_out
from cnn_tl.doctor.labels.units import units_of


def judged_of(planted: Blobs) -> Judged:
    return judge([planted.features], planted.labels, CLASSES, units_of(None, len(planted.labels)), 0)


def precision_of(logs: np.ndarray, planted: Blobs) -> float:
    return average_precision(-logs[np.arange(len(logs)), planted.labels], planted.wrong)


def test_leaving_suspects_out_helps_where_a_class_is_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "affordable", lambda images, axes, classes: False)
    gains = []
    for seed in range(3):
        planted = blobs(share=0.3, one_way=True, apart=0.4, seed=seed)
        judged = judged_of(planted)
        assert judged.fits == ("ridge",)
        gains.append(precision_of(judged.final, planted) - precision_of(judged.first, planted))
    assert np.mean(gains) > 0.01


def test_a_class_keeps_at_least_half_of_its_images_the_likeliest() -> None:
    own = np.array([0.8] * 20 + [0.8, 0.3, 0.08, 0.07, 0.06, 0.05])
    logs, labels = np.log(np.stack([own, 1 - own], 1)), np.repeat([0, 1], [20, 6])
    logs[20:] = logs[20:, ::-1]
    assert suspects_of(np.exp(logs), labels)[20:].sum() > 3
    assert to_leave_out(logs, labels).tolist() == [False] * 23 + [True] * 3


def test_the_mean_with_logistic_regression_is_at_least_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = [blobs(share=0.2, apart=0.3, seed=seed) for seed in range(3)]
    both = [precision_of(judged_of(one).final, one) for one in planted]
    monkeypatch.setattr(judges, "affordable", lambda images, axes, classes: False)
    alone = [precision_of(judged_of(one).final, one) for one in planted]
    assert np.mean(both) > np.mean(alone) - 0.01
    assert both != alone


def test_the_order_of_backbones_does_not_matter() -> None:
    one, other = blobs(apart=0.25, seed=1), blobs(apart=0.4, seed=2)
    units = units_of(None, len(one.labels))
    first, second = (
        judge(features, one.labels, CLASSES, units, 0)
        for features in ([one.features, other.features], [other.features, one.features])
    )
    np.testing.assert_allclose(first.first, second.first, atol=1e-9)
    np.testing.assert_allclose(first.final, second.final, atol=1e-9)


def test_probabilities_sum_to_one_and_fit_the_labels() -> None:
    planted = blobs(share=0.1, apart=0.3)
    judged = judged_of(planted)
    for logs in (judged.first, judged.final):
        probabilities = np.exp(logs)
        np.testing.assert_allclose(probabilities.sum(1), 1)
        right = probabilities.argmax(1) == planted.labels
        assert probabilities.max(1).mean() == pytest.approx(right.mean(), abs=0.08)
