"""A trained model as `networks.bundle` reads it: its description, and with it a timm model or plain tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from cnn_tl.abstention.distance import FeatureDistance
from cnn_tl.abstention.evidence import Evidence
from cnn_tl.core.device import WantedPrecision
from cnn_tl.core.preprocessing import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn


@dataclass(frozen=True)
class Description:
    """What is needed to use a trained model, except its network; known without torch.

    Attributes:
        path: the bundle's folder.
        classes: the class names, in the order of the logits.
        preprocessing: of an image before the model.
        facts: what training recorded (accuracy, recipe, ...).
        evidence: what training kept of held-out images; None in bundles of version 0.1 and from elsewhere.
    """

    path: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    facts: Mapping[str, Any]
    evidence: Evidence | None = field(default=None, kw_only=True)

    @property
    def distance(self) -> FeatureDistance | None:
        """What measures how far features lie from what training showed; None where that is not known."""
        return None if self.evidence is None else self.evidence.distance

    @property
    def majority_class(self) -> str | None:
        """The most frequent class of the training split; None if training did not record it."""
        baseline = self.facts.get("baseline")
        return baseline.get("class") if isinstance(baseline, dict) else None

    @property
    def precision(self) -> WantedPrecision:
        """The `run.precision` of the run, which prediction follows; earlier versions always validated in float32."""
        return next((name for name in get_args(WantedPrecision) if name == self.facts.get("precision")), "fp32")


@dataclass(frozen=True)
class Bundle(Description):
    """A trained model and everything that is needed to use it.

    Attributes:
        model: the timm model, evaluation mode, float32, on the CPU.
    """

    model: nn.Module

    @property
    def architecture(self) -> str:
        """timm's name."""
        return str(self.model.pretrained_cfg["architecture"])  # type: ignore[index]


@dataclass(frozen=True)
class Stored(Description):
    """A trained model as plain data, read without torch.

    Attributes:
        architecture: timm's name. model_args: arguments of `timm.create_model`.
        tensors: the state dict, finite.
        classifier: the name of the classifier inside the model; None if it is not known to have exactly one.
        head: the `spec` of a classifier that is not one linear layer, see `networks.head_modules`.
        graph: of the backbone, see `networks.graph.session`; None: only torch can run this model.
    """

    architecture: str
    model_args: Mapping[str, Any]
    tensors: Mapping[str, NDArray[Any]]
    classifier: str | None
    head: Mapping[str, Any] | None
    graph: bytes | None

    @property
    def backbone(self) -> dict[str, NDArray[Any]]:
        """The tensors of everything but the classifier."""
        return split_at_classifier(self.tensors, f"{self.classifier}")[0]

    @property
    def classifier_tensors(self) -> dict[str, NDArray[Any]]:
        """Those of the classifier by their names inside it; weight [K, D] and bias [K] if it is one linear layer."""
        found = split_at_classifier(self.tensors, f"{self.classifier}")[1]
        return as_linear(found) if self.head is None and "weight" in found else found


def split_at_classifier(
    tensors: Mapping[str, NDArray[Any]], classifier: str
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the tensors of the backbone, and those of the classifier by their names inside it."""
    inside = f"{classifier}."
    backbone = {name: array for name, array in tensors.items() if not name.startswith(inside)}
    return backbone, {name.removeprefix(inside): tensors[name] for name in tensors if name.startswith(inside)}


def as_linear(head: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return weight [K, D] and bias [K] of one linear layer, also of a 1x1 convolution, or of one without a bias."""
    weight = head["weight"].reshape(len(head["weight"]), -1)
    return {"bias": np.zeros(len(weight), weight.dtype)} | dict(head) | {"weight": weight}
