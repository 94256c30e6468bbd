"""Classifiers that are more than one linear layer, as modules that replace the classifier of a timm model.

The names in their state dicts are those of `cnn_tl.heads.FittedHead.tensors`. Input: features [N, D] or [N, D, 1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_tl.core.statistics import VOTE_SMALLEST_SHARE, VOTE_TEMPERATURE, VOTE_TIE


class Perceptron(nn.Module):
    """One hidden layer with GELU."""

    def __init__(self, num_features: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, hidden)
        self.output = nn.Linear(hidden, num_classes)

    def forward(self, features_ND: Tensor) -> Tensor:
        """Return the logits [N, K]."""
        logits: Tensor = self.output(F.gelu(self.hidden(features_ND.flatten(1))))
        return logits


class Neighbours(nn.Module):
    """The votes of the nearest training images, weighted by exp(cosine / 0.07) (Wu et al. 2018, sec. 3.4).

    Images as near as the last neighbour vote too, so the result does not depend on how `topk` orders ties.
    """

    bank: Tensor
    votes: Tensor

    def __init__(self, rows: int, num_features: int, num_classes: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = min(neighbours, rows)
        self.register_buffer("bank", torch.zeros(rows, num_features))
        self.register_buffer("votes", torch.zeros(rows, num_classes))

    def forward(self, features_ND: Tensor) -> Tensor:
        """Return the logits [N, K]: the logarithms of the shares of the votes."""
        similarity_NR = F.normalize(features_ND.flatten(1), dim=1) @ self.bank.T
        nearest_NC = similarity_NR.topk(self.neighbours, dim=1).values
        strength_NR = torch.exp((similarity_NR - nearest_NC[:, :1]) / VOTE_TEMPERATURE)
        strength_NR = strength_NR * (similarity_NR >= nearest_NC[:, -1:] - VOTE_TIE)
        shares_NK = strength_NR @ self.votes
        return torch.log(shares_NK / shares_NK.sum(1, keepdim=True) + VOTE_SMALLEST_SHARE)


def build(spec: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the module that a fitted head's `spec` and tensors describe, with the tensors loaded.

    Raises:
        KeyError, ValueError, RuntimeError: the tensors do not fit the spec.
    """
    module: nn.Module
    if spec["kind"] == "mlp":
        hidden, num_features = tensors["hidden.weight"].shape
        module = Perceptron(num_features, hidden, len(tensors["output.weight"]))
    elif spec["kind"] == "knn":
        rows, num_features = tensors["bank"].shape
        module = Neighbours(rows, num_features, tensors["votes"].shape[1], int(spec["neighbours"]))
    else:
        raise ValueError(f"there is no classifier of the kind {spec['kind']!r}")
    module.load_state_dict(dict(tensors))
    return module


def replace_classifier(
    model: nn.Module, spec: Mapping[str, Any], state: Mapping[str, Tensor], num_classes: int
) -> None:
    """Replace the model's classifier by the one that `spec` describes; `state` is the state dict of the whole model.

    Raises:
        KeyError, ValueError, RuntimeError: the state does not fit the spec.

    """
    classifier = model.get_classifier()  # type: ignore[operator]
    name = next(name for name, module in model.named_modules() if module is classifier)
    inside = {k.removeprefix(f"{name}."): tensor for k, tensor in state.items() if k.startswith(f"{name}.")}
    made = build(spec, inside)
    outputs = inside["output.weight"].shape[0] if spec["kind"] == "mlp" else inside["votes"].shape[1]
    if outputs != num_classes:
        raise ValueError(f"the classifier gives {outputs} logits for {num_classes} classes")
    model.set_submodule(name, made)
