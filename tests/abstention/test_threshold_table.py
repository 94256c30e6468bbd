"""A table gives the rules of the evidence that it was made from, for the values in it, also through JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cnn_tl.abstention.distance_fit import fit_with_held_out
from cnn_tl.abstention.evidence import Evidence
from cnn_tl.abstention.rule import Rule
from cnn_tl.abstention.threshold_table import MAX_ERRORS, UNKNOWN_SHARES, ThresholdTable
from cnn_tl.abstention.thresholds import Thresholds
from cnn_tl.core.errors import UsageError


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    """Evidence of 600 images, of which one in ten is answered wrongly: 1 and 2% cannot be promised."""
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 3, 600)
    features = chance.normal(size=(600, 16)) + 4 * chance.normal(size=(3, 16))[labels]
    logits = chance.normal(size=(600, 3)) + 2.2 * np.eye(3)[labels]
    distance, distances = fit_with_held_out(features.astype(np.float32), labels, 3)
    return Evidence.of("training", logits, labels, distances, distance)


def through_json(table: ThresholdTable) -> ThresholdTable:
    return ThresholdTable.from_dict(json.loads(json.dumps(table.to_dict(), allow_nan=False)), 3)


def same(one: Rule, other: Rule) -> bool:
    assert np.array_equal(one.least, other.least)  # type: ignore[arg-type]
    return replace(one, least=None) == replace(other, least=None)


def rule_or_refusal(thresholds: Thresholds, max_error: float | None, unknown: float | None) -> Rule | str:
    try:
        return thresholds.rule(max_error, unknown)
    except UsageError as refused:
        return str(refused)


@pytest.mark.parametrize("unknown", [None, *UNKNOWN_SHARES])
@pytest.mark.parametrize("max_error", [None, *MAX_ERRORS])
def test_its_rules_are_those_of_the_evidence(
    evidence: Evidence, max_error: float | None, unknown: float | None
) -> None:
    found, expected = (
        rule_or_refusal(thresholds, max_error, unknown)
        for thresholds in (through_json(ThresholdTable.of(evidence)), evidence)
    )
    if isinstance(found, Rule) and isinstance(expected, Rule):
        assert same(found, expected)
        assert found.withholds == (max_error is not None or unknown is not None)
    else:
        assert found == expected


def test_some_promises_are_kept_and_some_refused(evidence: Evidence) -> None:
    possible = {one.max_error for one in ThresholdTable.of(evidence).confidences if one.probability is not None}
    assert possible
    assert possible < set(MAX_ERRORS)


@pytest.mark.parametrize(
    ("promise", "said"),
    [
        (
            {"max_error": 0.04},
            r"^--max-error 4%: the thresholds in this file are for 1%, 2%, 3%, 5%, 10% and 20%; name",
        ),
        (
            {"unknown": 0.1},
            r"^--unknown 10%: the thresholds in this file are for 0\.1%, 0\.5%, 1%, 2% and 5%; name the",
        ),
        ({"max_error": 0.2, "unknown": 0.3}, "^--unknown 30%"),
    ],
)
def test_other_values_are_refused_with_those_that_are_there(
    evidence: Evidence, promise: dict[str, float], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        ThresholdTable.of(evidence).rule(**promise)
    assert "\n" not in str(refused.value)


def test_without_distances_promises_are_about_all_images(evidence: Evidence) -> None:
    table = through_json(ThresholdTable.of(evidence, measured=False))
    assert table.limits == ()
    assert [one.unknown for one in table.confidences] == [None] * len(MAX_ERRORS)
    assert table.rule().most_distance == math.inf
    assert same(table.rule(0.2), evidence.without_distances().rule(0.2))
    assert table.rule(0.2).least_confidence == evidence.promise(0.2).least
    with pytest.raises(UsageError, match="--unknown: this model does not measure distances"):
        table.rule(0.2, 0.01)


def test_too_few_images_for_sets() -> None:
    labels = np.arange(12) % 3
    table = through_json(ThresholdTable.of(Evidence.of("validation", 5 * np.eye(3)[labels], labels)))
    assert (table.source, table.images, table.sets) == ("validation", 12, None)
    assert table.rule().least is None
    with pytest.raises(UsageError, match="needs at least 59 held-out images, there are 12"):
        table.rule(0.05)


@pytest.mark.parametrize(
    "change",
    [
        {"sets": [0.1, 0.2]},
        {"source": "elsewhere"},
        {"images": None},
        {"limits": [{"unknown": 0.01}]},
        {"confidences": [{"max_error": 0.05}]},
    ],
)
def test_damage_is_noticed(evidence: Evidence, change: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        ThresholdTable.from_dict(ThresholdTable.of(evidence).to_dict() | change, 3)
