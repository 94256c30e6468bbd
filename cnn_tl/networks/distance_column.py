"""A network in torch that gives the distance of an image's features beside its logits.

The classifier is replaced by one that computes both from the same features, so nothing runs twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_tl.abstention.distance import LEAST_SQUARE, FeatureDistance


class WithDistance(nn.Module):
    """A classifier whose outputs [N, K + 1] are its logits and, last, the distance; see `FeatureDistance`."""

    mean: Tensor
    layer: Tensor
    offsets: Tensor
    axes: Tensor
    weights: Tensor

    def __init__(self, classifier: nn.Module, distance: FeatureDistance) -> None:
        super().__init__()
        self.classifier = classifier
        mean_D, distance = distance.centred
        self.rest, self.scale = distance.rest, distance.scale
        self.register_buffer("mean", torch.from_numpy(mean_D))
        self.register_buffer("layer", torch.from_numpy(distance.layer))
        self.register_buffer("offsets", torch.from_numpy(distance.offsets))
        self.register_buffer("axes", torch.from_numpy(distance.axes))
        self.register_buffer("weights", torch.from_numpy(distance.weights) - distance.rest)

    def forward(self, features_ND: Tensor) -> Tensor:
        """Return the outputs of features [N, D] or [N, D, 1, 1]."""
        logits_NK: Tensor = self.classifier(features_ND)
        flat_ND = features_ND.flatten(1).float()
        x_ND = F.normalize(flat_ND.sign() * flat_ND.abs().sqrt(), dim=1, eps=1e-12) - self.mean
        nearest_N = (self.offsets - 2 * x_ND @ self.layer.T).amin(1)
        own_N = self.rest * x_ND.square().sum(1) + (x_ND @ self.axes.T).square() @ self.weights
        distances_N = (own_N + nearest_N).clamp(min=LEAST_SQUARE).sqrt() / self.scale
        return torch.cat([logits_NK.flatten(1).float(), distances_N[:, None]], 1)


def add_distance(model: nn.Module, distance: FeatureDistance) -> None:
    """Let a model with one classifier give its logits and the distance; the names of its tensors change."""
    classifier = model.get_classifier()  # type: ignore[operator]
    name = next(name for name, module in model.named_modules() if module is classifier)
    model.set_submodule(name, WithDistance(classifier, distance))


class _TwoOutputs(nn.Module):
    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.model, self.num_classes = model, num_classes

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        outputs_NE = self.model(x_NCHW)
        return outputs_NE[:, : self.num_classes], outputs_NE[:, self.num_classes]


def with_two_outputs(model: nn.Module, distance: FeatureDistance, num_classes: int) -> nn.Module:
    """Return a module that gives logits [N, K] and distances [N]; the model is changed."""
    add_distance(model, distance)
    return _TwoOutputs(model, num_classes).eval()
