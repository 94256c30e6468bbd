"""Where the thresholds of a rule come from: the evidence in a bundle, or the metadata of an exported file."""

from __future__ import annotations

from typing import Protocol

from cnn_tl.abstention.rule import Rule


class Thresholds(Protocol):
    """What held-out images say about confidence and distance."""

    def rule(self, max_error: float | None = None, unknown: float | None = None) -> Rule:
        """Return the rule for a promise and a share of images that may be called unknown, see `Classifier.rule`.

        Raises:
            UsageError: the promise cannot be given, or distances are not known.
        """
        ...
