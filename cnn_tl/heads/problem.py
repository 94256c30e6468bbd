"""What a head is fitted on, and what a fit gives.

Shapes: N images, V views of each, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import DivergedError, RecipeError

Features = NDArray[np.float32]


class Views(Protocol):
    """The features of some images: V views of each, the plain one first."""

    def __len__(self) -> int:
        """Return V."""
        ...

    def __getitem__(self, view: int) -> Features:
        """Return one view of every image, float32 [N, D]."""
        ...


@dataclass(frozen=True)
class Problem:
    """The features of the training part and what they are to be told apart as.

    Attributes:
        labels: int64 [N] in 0..K-1.
        class_weights: float64 [K], how much an image of each class counts; 1 is neutral.
        check: called again and again while a fit goes on; what it raises ends the fit.
    """

    views: Views
    labels: NDArray[np.int64]
    num_classes: int
    class_weights: NDArray[np.float64]
    seed: int
    check: Callable[[], None] = lambda: None

    @property
    def image_weights(self) -> NDArray[np.float64]:
        """How much each image counts, float64 [N], 1 on average."""
        weights_N = self.class_weights[self.labels]
        return weights_N / weights_N.mean()  # type: ignore[no-any-return]

    def stacked(self) -> tuple[Features, NDArray[np.int64]]:
        """Return all views below each other, float32 [V * N, D], and of which image each row is, [V * N].

        Raises:
            DivergedError: the features are not finite.
        """
        views = []
        for view in range(len(self.views)):
            self.check()
            views.append(self.views[view])
        features_RD = views[0] if len(views) == 1 else np.concatenate(views)
        if not np.isfinite(features_RD).all():
            raise DivergedError("the backbone gives features that are NaN or infinite; try --set run.precision=fp32")
        return features_RD, np.tile(np.arange(len(self.labels)), len(views))


@dataclass(frozen=True)
class FittedHead:
    """A head that was fitted.

    Attributes:
        tensors: by their names inside the classifier; of a linear head weight [K, D] and bias [K].
        forward: float32 features [M, D] to logits [M, K].
        spec: None for one linear layer; else what kind of module it is, see `cnn_tl.networks.classifiers`.
        facts: what the fit chose and how it went, plain data for JSON.
    """

    tensors: Mapping[str, NDArray[Any]]
    forward: Callable[[Features], Features]
    spec: Mapping[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def logits(self, features_MD: Features) -> Features:
        """Return the logits, float32 [M, K]."""
        return self.forward(features_MD)


def linear_head(weight_KD: NDArray[Any], bias_K: NDArray[Any], facts: dict[str, Any]) -> FittedHead:
    """Make a linear head: logits [M, K] = features [M, D] @ weight.T + bias.

    Raises:
        DivergedError: it is not finite.
    """
    weight, bias = weight_KD.astype(np.float32), bias_K.astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise DivergedError("the fitted head is not finite; try a larger head.penalty")
    return FittedHead({"weight": weight, "bias": bias}, lambda features: features @ weight.T + bias, None, facts)


def class_weights(
    setting: str | Mapping[str, float],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    key: str = "head.class_weights",
) -> NDArray[np.float64]:
    """Return how much an image of each class counts, float64 [K].

    Args:
        setting: "none"; "balanced", so that every class counts as much as another; or weights by class name, 1 for
            classes that are not named.
        key: where in the recipe the setting stands, for the message.

    Raises:
        RecipeError: there is no class of a name.
    """
    if setting == "none":
        return np.ones(len(classes))
    if setting == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        return len(labels) / (len(classes) * np.maximum(counts, 1.0))
    assert isinstance(setting, Mapping)
    if unknown := sorted(set(setting) - set(classes)):
        raise RecipeError(f"{key} names {unknown[0]!r}, but the classes are {', '.join(classes[:20])}")
    return np.array([setting.get(name, 1.0) for name in classes])
