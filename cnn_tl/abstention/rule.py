"""What is said of one image: whether it is answered, and which classes may be the right one.

Shapes: K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.conformal import members

Verdict = Literal["answered", "unsure", "unknown"]


@dataclass(frozen=True)
class Judgement:
    """What is said of an image.

    Attributes:
        verdict: answered; unsure, the confidence is too low for the promise; or unknown, the image lies outside what
            training showed.
        members: the classes of the smallest set that holds the truth 95% of the time, the most probable first; None
            where nothing is known of that.
    """

    verdict: Verdict
    members: tuple[int, ...] | None


@dataclass(frozen=True)
class Rule:
    """The thresholds for one purpose.

    Attributes:
        least_confidence: answers with a lower probability are unsure.
        most_distance: images further away are unknown.
        least: a class belongs to the set if it has at least this probability, [K], and the most probable one always;
            None: no sets are known.
        withholds: whether an image that is not answered gets no label; else the verdict is only a remark.
    """

    least_confidence: float = 0.0
    most_distance: float = math.inf
    least: NDArray[np.floating[Any]] | None = None
    withholds: bool = False

    def judge(self, probabilities_K: NDArray[np.floating[Any]], distance: float | None = None) -> Judgement:
        """Return what is said of an image.

        Args:
            probabilities_K: of the classes.
            distance: as `FeatureDistance` gives it; None where the model does not know it.
        """
        verdict: Verdict = "answered"
        if distance is not None and distance > self.most_distance:
            verdict = "unknown"
        elif probabilities_K.max() < self.least_confidence:
            verdict = "unsure"
        return Judgement(verdict, self._members(probabilities_K))

    def _members(self, probabilities_K: NDArray[np.floating[Any]]) -> tuple[int, ...] | None:
        if self.least is None:
            return None
        found = np.flatnonzero(members(probabilities_K[None], self.least)[0])
        return tuple(map(int, found[np.argsort(-probabilities_K[found], kind="stable")]))
