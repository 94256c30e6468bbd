"""What a model's verdicts are worth: promises and sets on labelled images, and images that show none of its classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.evidence import Evidence
from cnn_tl.abstention.rule import Rule
from cnn_tl.abstention.threshold_table import ThresholdTable
from cnn_tl.core.errors import UsageError
from cnn_tl.evaluating.robustness import Predictions
from cnn_tl.inference.classifier import Classifier
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.metrics.selective import (
    Abstention,
    Signals,
    UnknownCheck,
    abstention_of,
    check_promise,
    check_sets,
    check_unknown,
    top_probabilities,
)


@dataclass(frozen=True)
class ChosenRule:
    """The rule of an evaluation.

    Attributes:
        rule: by which images are judged.
        max_error, unknown: as they were asked for; None: not.
        reason: why that cannot be promised, so that no image is answered; "" where it can.
        from_validation: whether its thresholds come from the validation images.
    """

    rule: Rule
    max_error: float | None
    unknown: float | None
    reason: str
    from_validation: bool

    def remarks(self, split: str | None) -> tuple[str, ...]:
        """Say if the images of a split have chosen the thresholds themselves."""
        if not self.from_validation or split != "val":
            return ()
        return ("the thresholds come from these validation images: other images tell whether promises are kept",)

    def signals(
        self, confidence_N: NDArray[np.floating[Any]], distances_N: NDArray[np.floating[Any]] | None
    ) -> Signals:
        """Return what the rule makes of N images."""
        rule = self.rule
        unknown_N = np.zeros(len(confidence_N), np.bool_) if distances_N is None else distances_N > rule.most_distance
        answered_N = ~unknown_N & (confidence_N >= rule.least_confidence) & (not self.reason)
        return Signals(confidence_N, distances_N, unknown_N, answered_N)


def choose_rule(model: Classifier, max_error: float | None, unknown: float | None) -> ChosenRule:
    """Return the rule for a promise and a share of known images that may be called unknown, as `predict` has it.

    Raises:
        UsageError: the model knows nothing of held-out images, or `unknown` is given and it knows no distances.
    """
    rule = model.rule(None, unknown)
    known = model.thresholds
    from_validation = isinstance(known, Evidence | ThresholdTable) and known.source == "validation"
    if max_error is None:
        return ChosenRule(rule, None, unknown, "", from_validation)
    if model.thresholds is None:
        model.rule(max_error)  # raises
    try:
        return ChosenRule(model.rule(max_error, unknown), max_error, unknown, "", from_validation)
    except UsageError as error:
        reason = str(error).removeprefix("--max-error: ")
        return ChosenRule(rule, max_error, unknown, reason, from_validation)


def abstention_by(
    chosen: ChosenRule, predictions: Predictions, answers: LabelledAnswers, labels_N: NDArray[np.int64]
) -> tuple[Abstention, Signals]:
    """Return what not answering gains on labelled images, and their signals."""
    found, rule = abstention_of(answers), chosen.rule
    signals = chosen.signals(answers.confidence, predictions.distances)
    if signals.distance is not None:
        found = replace(found, called_unknown=float(signals.unknown.mean()), unknown_share=chosen.unknown)
    if rule.least is not None:
        found = replace(found, sets=check_sets(predictions.logits, labels_N, rule.least))
    if chosen.max_error is not None:
        least = None if chosen.reason else rule.least_confidence
        check = check_promise(chosen.max_error, least, chosen.reason, answers, signals.answered)
        found = replace(found, promise=check)
    return found, signals


def unknown_check(chosen: ChosenRule, folder: str, known: Signals, foreign: Predictions) -> UnknownCheck:
    """Return how well images that show none of the classes are told from the labelled ones."""
    signals = chosen.signals(top_probabilities(foreign.logits), foreign.distances)
    return check_unknown(folder, len(foreign.unreadable), known, signals)
