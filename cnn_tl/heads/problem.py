"""The input and the result of fitting a head.

Shapes: N images, V views of each, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import DivergedError, RecipeError
from cnn_tl.networks.head_forward import Forward, forward_of

Features = NDArray[np.float32]


class Views(Protocol):
    """The features of some images: V views of each, the first one not augmented."""

    def __len__(self) -> int:
        """Return V."""
        ...

    def __getitem__(self, view: int) -> Features:
        """Return one view of every image, float32 [N, D]."""
        ...


@dataclass(frozen=True)
class Problem:
    """The features and labels of the training split.

    Attributes:
        labels: int64 [N] in 0..K-1.
        class_weights: float64 [K], the weight of an image of each class; 1 is neutral.
        check: called repeatedly during a fit; an exception in it ends the fit.
        device: where to compute what is large, a name for torch; "cpu" needs no torch.
        groups: the group of each image, int64 [N]; cross-validation holds out whole groups. None: each image is alone.
        hold_out: whether the fitted head keeps logits of held-out images, which take up to a fifth of the time.
    """

    views: Views
    labels: NDArray[np.int64]
    num_classes: int
    class_weights: NDArray[np.float64]
    seed: int
    check: Callable[[], None] = lambda: None
    device: str = "cpu"
    groups: NDArray[np.int64] | None = None
    hold_out: bool = True

    @property
    def image_weights(self) -> NDArray[np.float64]:
        """The weight of each image, float64 [N], 1 on average."""
        weights_N = self.class_weights[self.labels]
        return weights_N / weights_N.mean()  # type: ignore[no-any-return]

    def stacked(self) -> tuple[Features, NDArray[np.int64]]:
        """Return all views concatenated, float32 [V * N, D], and the image of each row, [V * N].

        Raises:
            DivergedError: the features are not finite.
        """
        views = []
        for view in range(len(self.views)):
            self.check()
            views.append(self.views[view])
        features_RD = views[0] if len(views) == 1 else np.concatenate(views)
        require_finite(features_RD)
        return features_RD, np.tile(np.arange(len(self.labels)), len(views))


def require_finite(features: Features) -> None:
    """Check features.

    Raises:
        DivergedError: they are not finite.
    """
    if not np.isfinite(features).all():
        raise DivergedError("the backbone gives features that are NaN or infinite; try --set run.precision=fp32")


@dataclass(frozen=True)
class HeldOut:
    """Logits of training images by heads of the same kind and hyper-parameters, fitted without them.

    Whole groups are held out. So these logits are as right, and as confident, as those of new images, but for the few
    hyper-parameters, such as the penalty, which the held-out images themselves have chosen.

    Attributes:
        images: the n images, int64 [n], ascending.
        logits: of their views without augmentation, [n, K].
    """

    images: NDArray[np.int64]
    logits: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FittedHead:
    """A fitted head.

    Attributes:
        tensors: by their names inside the classifier; weight [K, D] and bias [K] for a linear head.
        num_classes: K.
        spec: None for one linear layer; else the kind of module, see `cnn_tl.networks.head_modules`.
        facts: what the fit chose and how it went, plain JSON data.
        held_out: what heads fitted without these images say of them; None if no image, or no time, could be spared.
    """

    tensors: Mapping[str, NDArray[Any]]
    num_classes: int
    spec: Mapping[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    held_out: HeldOut | None = None

    @cached_property
    def logits(self) -> Forward:
        """The function from float32 features [M, D] to logits [M, K], as predictions compute them."""
        return forward_of(self.spec, self.tensors, self.num_classes)


def linear_head(weight_KD: NDArray[Any], bias_K: NDArray[Any], facts: dict[str, Any]) -> FittedHead:
    """Return a linear head: logits [M, K] = features [M, D] @ weight.T + bias.

    Raises:
        DivergedError: it is not finite.
    """
    weight, bias = weight_KD.astype(np.float32), bias_K.astype(np.float32)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise DivergedError("the fitted head is not finite; try a larger head.penalty")
    return FittedHead({"weight": weight, "bias": bias}, len(weight), None, facts)


def class_weights(
    setting: str | Mapping[str, float],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    key: str = "head.class_weights",
) -> NDArray[np.float64]:
    """Return the weight of an image of each class, float64 [K].

    Args:
        setting: "none"; "balanced", so that all classes have the same weight in total; or weights by class name, 1 for
            classes that are not named.
        key: the key of the setting in the recipe, for the message.

    Raises:
        RecipeError: a name is not a class.
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
