"""What a trained model keeps of images that it was not fitted to, so that thresholds can be chosen later.

For each held-out image: its class, the probability of that class, the confidence, whether the answer was right, and the
distance; 17 bytes. And `FeatureDistance`, which measures the distance of new images.

Shapes: n held-out images, N images, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.conformal import SetThresholds, fit_sets
from cnn_tl.abstention.distance import UNKNOWN_SHARE, FeatureDistance, distance_limit
from cnn_tl.abstention.risk import Promise, least_confidence
from cnn_tl.abstention.rule import Rule
from cnn_tl.core.errors import UsageError
from cnn_tl.core.seeds import seed_of
from cnn_tl.core.statistics import softmax

MOST_IMAGES = 20_000
"""Held-out images that are kept, 340 KB; more would not make the thresholds noticeably more exact."""

RELIABLE = (0.9, 0.95, 0.99)
"""The accuracies that a model card speaks of."""

Source = Literal["training", "validation"]
"""Which images were held out: training images, by folds or one by one; or the validation images."""

NO_DISTANCE = "--unknown: this model does not measure distances; its classifier is not one layer above its features"

_DISTANCE = "distance."
_SOURCE = "source"
FORMAT = 1
"""Of the arrays in a file. It rises when their numbers mean something else, such as distances measured otherwise."""


@dataclass(frozen=True)
class Evidence:
    """What is known of held-out images.

    Attributes:
        source: which images they are.
        num_classes: K.
        labels_n: their classes, int64 [n].
        true_n: the probability of their class, float32 [n].
        confidence_n: the highest probability, float32 [n].
        right_n: whether the most probable class is theirs, bool [n].
        distances_n: how far they lie from what training showed, float32 [n], NaN where no fit without the image
            was possible; None where that is not known.
        distance: measures the distance of features; None where that is not known.
    """

    source: Source
    num_classes: int
    labels_n: NDArray[np.int64]
    true_n: NDArray[np.float32]
    confidence_n: NDArray[np.float32]
    right_n: NDArray[np.bool_]
    distances_n: NDArray[np.float32] | None = None
    distance: FeatureDistance | None = None

    @classmethod
    def of(
        cls,
        source: Source,
        logits_nK: NDArray[np.floating[Any]],
        labels_n: NDArray[np.int64],
        distances_n: NDArray[np.float32] | None = None,
        distance: FeatureDistance | None = None,
        *,
        seed: int = 0,
    ) -> Evidence:
        """Return the evidence of held-out images, at most `MOST_IMAGES` of them, drawn by the seed.

        Args:
            logits_nK: what models that were not fitted to an image say of it.
            distances_n: by fits that an image did not take part in, in the units of `distance`.
        """
        if len(labels_n) > MOST_IMAGES:  # before the softmax, which takes as much memory as the logits
            kept = np.random.default_rng(seed_of(seed, "evidence")).permutation(len(labels_n))[:MOST_IMAGES]
            logits_nK, labels_n = logits_nK[kept], labels_n[kept]
            distances_n = None if distances_n is None else distances_n[kept]
        if distances_n is not None and not np.isfinite(distances_n).any():  # nothing tells which of them are usual
            distances_n = distance = None
        probabilities_nK = softmax(logits_nK)
        return cls(
            source=source,
            num_classes=logits_nK.shape[1],
            labels_n=labels_n,
            true_n=probabilities_nK[np.arange(len(labels_n)), labels_n].astype(np.float32),
            confidence_n=probabilities_nK.max(1).astype(np.float32),
            right_n=probabilities_nK.argmax(1) == labels_n,
            distances_n=distances_n,
            distance=distance,
        )

    @property
    def images(self) -> int:
        """Return n."""
        return len(self.labels_n)

    def _only(self, chosen: NDArray[Any]) -> Evidence:
        """Return the evidence of some of the images."""
        return replace(
            self,
            labels_n=self.labels_n[chosen],
            true_n=self.true_n[chosen],
            confidence_n=self.confidence_n[chosen],
            right_n=self.right_n[chosen],
            distances_n=None if self.distances_n is None else self.distances_n[chosen],
        )

    def without_distances(self) -> Evidence:
        """Return the evidence for a model that does not give distances."""
        return replace(self, distances_n=None, distance=None)

    def most_distance(self, unknown: float = UNKNOWN_SHARE) -> float:
        """Return the distance beyond which images are unknown; infinity where distances are not known."""
        return math.inf if self.distances_n is None else distance_limit(self.distances_n, unknown)

    @cached_property
    def sets(self) -> SetThresholds | None:
        """From which probability on a class belongs to the set that holds the truth 95% of the time."""
        return fit_sets(self.true_n, self.labels_n, self.num_classes)

    def promise(self, max_error: float, unknown: float | None = None) -> Promise:
        """Return the confidence from which on at most a share of the answers is wrong.

        Args:
            unknown: the promise is given for images that are not called unknown at this share. That limit is a
                distance among those of these images; the nearer ones remain independent draws of all that are nearer.
        """
        known = self
        if unknown is not None and self.distances_n is not None:
            known = self._only(~(self.distances_n > self.most_distance(unknown)))
        return least_confidence(known.confidence_n, known.right_n, max_error)

    @property
    def reliable(self) -> list[dict[str, float]]:
        """How confident answers must be to have the accuracies of `RELIABLE`; what cannot be promised is left out.

        That is `accuracy`, `probability`, and the `share` of held-out images that are at least as confident.
        """
        promises = {accuracy: self.promise(round(1 - accuracy, 6)) for accuracy in RELIABLE}
        return [
            {"accuracy": accuracy, "probability": promise.least, "share": promise.answered}
            for accuracy, promise in promises.items()
            if promise.least is not None
        ]

    def rule(self, max_error: float | None = None, unknown: float | None = None) -> Rule:
        """Return the rule for a promise and a share of images that may be called unknown, see `Classifier.rule`.

        Raises:
            UsageError: the promise cannot be given, or distances are not known.
        """
        if unknown is not None and self.distances_n is None:
            raise UsageError(NO_DISTANCE)
        share = UNKNOWN_SHARE if unknown is None else unknown
        least = 0.0
        if max_error is not None:
            promise = self.promise(max_error, share)
            if promise.least is None:
                raise UsageError(f"--max-error: {promise.text}")
            least = promise.least
        return Rule(
            least_confidence=least,
            most_distance=self.most_distance(share),
            least=None if self.sets is None else self.sets.least,
            withholds=max_error is not None or unknown is not None,
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays by name, for a file."""
        kept: dict[str, NDArray[Any]] = {
            _SOURCE: np.array([FORMAT, get_args(Source).index(self.source), self.num_classes], np.int32),
            "labels": self.labels_n.astype(np.int32),
            "true": self.true_n,
            "confidence": self.confidence_n,
            "right": self.right_n.astype(np.uint8),
        }
        if self.distances_n is not None and self.distance is not None:
            kept["distances"] = self.distances_n
            kept |= {_DISTANCE + name: array for name, array in self.distance.arrays().items()}
        return kept

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], num_classes: int) -> Evidence:
        """Return the evidence from what `arrays` returned.

        Raises:
            KeyError, ValueError: they are not that, or of another number of classes.
        """
        written, source, classes = map(int, arrays[_SOURCE])
        if written != FORMAT:
            raise ValueError(f"format {written}, and this version of cnn-tl reads {FORMAT}")
        images = {
            len(arrays[name]) for name in ("labels", "true", "confidence", "right", "distances") if name in arrays
        }
        if classes != num_classes or len(images) != 1:
            raise ValueError(f"evidence of {classes} classes, arrays of {sorted(images)} images")
        if broken := [name for name, array in arrays.items() if name != "distances" and not np.isfinite(array).all()]:
            raise ValueError(f"NaN or infinity in {broken[0]}")
        of_distance = {
            name.removeprefix(_DISTANCE): array for name, array in arrays.items() if name.startswith(_DISTANCE)
        }
        return cls(
            source=get_args(Source)[source],
            num_classes=classes,
            labels_n=arrays["labels"].astype(np.int64),
            true_n=arrays["true"],
            confidence_n=arrays["confidence"],
            right_n=arrays["right"].astype(np.bool_),
            distances_n=arrays["distances"] if of_distance else None,
            distance=FeatureDistance.from_arrays(of_distance) if of_distance else None,
        )
