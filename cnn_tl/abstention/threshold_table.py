"""The thresholds of the usual promises, as JSON in the metadata of an exported file.

The evidence of a bundle gives a rule for any promise; a table gives those that were worked out when it was made.

Shapes: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.distance import UNKNOWN_SHARE
from cnn_tl.abstention.evidence import NO_DISTANCE, Evidence, Source
from cnn_tl.abstention.rule import Rule
from cnn_tl.core.errors import UsageError
from cnn_tl.core.formatting import share_as_typed

MAX_ERRORS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
"""The promises: at most this share of the answers is wrong."""

UNKNOWN_SHARES = (0.001, 0.005, 0.01, 0.02, 0.05)
"""The shares of known images that may be called unknown."""


@dataclass(frozen=True)
class Limit:
    """Images further away than `distance` are unknown; of those like the training ones that is about a share."""

    unknown: float
    distance: float


@dataclass(frozen=True)
class Confidence:
    """From which probability on answers are wrong at most as often as promised.

    Attributes:
        max_error: the promise.
        unknown: it holds for images that are not called unknown at this share; None: for all.
        probability: the least one; None where nothing can be promised.
        answered: the share of held-out images that are at least as confident.
        text: the promise in a sentence, or why there is none.
    """

    max_error: float
    unknown: float | None
    probability: float | None
    answered: float
    text: str


@dataclass(frozen=True)
class ThresholdTable:
    """Thresholds for the usual values, see `Thresholds`.

    Attributes:
        source, images: which images were held out, and how many.
        sets: the probability that each class needs to belong to a set, [K]; None where that is not known.
        limits: of the distance; none where it is not known.
        confidences: for each promise, and each share of `limits` if there are any.
    """

    source: Source
    images: int
    sets: tuple[float, ...] | None
    limits: tuple[Limit, ...]
    confidences: tuple[Confidence, ...]

    @classmethod
    def of(cls, evidence: Evidence, *, measured: bool = True) -> ThresholdTable:
        """Return the thresholds that follow from held-out images.

        Args:
            measured: whether distances will be known.
        """
        if not measured:
            evidence = evidence.without_distances()
        shares = UNKNOWN_SHARES if evidence.distances_n is not None else ()
        return cls(
            source=evidence.source,
            images=evidence.images,
            sets=None if evidence.sets is None else tuple(map(float, evidence.sets.least)),
            limits=tuple(Limit(share, evidence.most_distance(share)) for share in shares),
            confidences=tuple(
                _confidence(evidence, error, share) for error in MAX_ERRORS for share in shares or (None,)
            ),
        )

    def rule(self, max_error: float | None = None, unknown: float | None = None) -> Rule:
        """Return the rule for a promise and a share of images that may be called unknown, see `Classifier.rule`.

        Raises:
            UsageError: the promise cannot be given, distances are not known, or the table lacks the value.
        """
        if unknown is not None and not self.limits:
            raise UsageError(NO_DISTANCE)
        share = (UNKNOWN_SHARE if unknown is None else unknown) if self.limits else None
        limits = [one for one in self.limits if share is not None and math.isclose(one.unknown, share)]
        if share is not None and not limits:
            raise _not_in_table("--unknown", share, (one.unknown for one in self.limits))
        least = 0.0
        if max_error is not None:
            least = self._least(max_error, share)
        return Rule(
            least_confidence=least,
            most_distance=limits[0].distance if limits else math.inf,
            least=self._sets_K,
            withholds=max_error is not None or unknown is not None,
        )

    def _least(self, max_error: float, unknown: float | None) -> float:
        of_error = [one for one in self.confidences if math.isclose(one.max_error, max_error)]
        if not of_error:
            raise _not_in_table("--max-error", max_error, (one.max_error for one in self.confidences))
        [found] = [one for one in of_error if unknown is None or math.isclose(one.unknown or 0.0, unknown)]
        if found.probability is None:
            raise UsageError(f"--max-error: {found.text}")
        return found.probability

    @property
    def _sets_K(self) -> NDArray[np.floating[Any]] | None:  # noqa: N802
        return None if self.sets is None else np.array(self.sets, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], num_classes: int) -> ThresholdTable:
        """Return the table that `to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: it is not that, or of another number of classes.
        """
        sets: Sequence[Any] | None = values["sets"]
        table = cls(
            source=values["source"],
            images=int(values["images"]),
            sets=None if sets is None else tuple(map(float, sets)),
            limits=tuple(Limit(float(one["unknown"]), float(one["distance"])) for one in values["limits"]),
            confidences=tuple(Confidence(**one) for one in values["confidences"]),
        )
        if table.source not in get_args(Source) or (sets is not None and len(sets) != num_classes):
            raise ValueError(f"thresholds of {'no' if sets is None else len(sets)} classes by {table.source!r}")
        return table


def _confidence(evidence: Evidence, max_error: float, unknown: float | None) -> Confidence:
    promise = evidence.promise(max_error, unknown)
    return Confidence(max_error, unknown, promise.least, promise.answered, promise.text)


def _not_in_table(option: str, share: float, known: Iterable[float]) -> UsageError:
    *others, last = (share_as_typed(one) for one in sorted(set(known)))
    return UsageError(
        f"{option} {share_as_typed(share)}: the thresholds in this file are for {', '.join(others)} and {last}; "
        "name the run folder for any other"
    )
