"""Temperature scaling of a trained network, folded into the weights of its classifier.

A network that is trained until its loss stalls is overconfident, one trained on smoothed labels underconfident.
Dividing the logits by one number, fitted on validation images and shrunk towards 1 (`temperature_of`), corrects most of
that; it changes no prediction and never raises the validation loss (Guo et al. 2017, "On calibration of modern neural
networks", sec. 4.2). As it is part of the weights, it also holds for predict, ONNX, timm and transformers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.heads.calibration import temperature_of
from cnn_tl.training.loop.validation import scores
from cnn_tl.training.outcome import Temperature


def divide_by_temperature(
    model: nn.Module,
    name: str,
    logits_NK: Tensor,
    labels_N: NDArray[np.int64],
    again: Callable[[], Tensor],
    note: Callable[[str], None],
) -> tuple[Tensor, Temperature | None]:
    """Fit the temperature on validation logits, divide the classifier by it, and return the logits [N, K] after that.

    If the classifier is not linear or was not trained, or if the logits do not scale with its weights, nothing is
    changed: `note` receives the reason, and the temperature is None.

    Args:
        name: name of the model, for the note.
        logits_NK: validation logits of the model as it is.
        again: computes them again.
    """
    parameters = _trained_classifier(model)
    if not parameters:
        note("the classifier is not a trained linear layer, so the temperature stays 1")
        return logits_NK, None
    factor = 1 / temperature_of(logits_NK.double().numpy(), labels_N)
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(factor)
    divided_NK = again()
    if torch.allclose(divided_NK, factor * logits_NK, rtol=1e-3, atol=1e-3 * factor):
        losses = [scores(logits, labels_N)["val_loss"] for logits in (logits_NK, divided_NK)]
        return divided_NK, Temperature(1 / factor, *losses)
    note(f"the logits of {name} do not scale with its classifier, so the temperature stays 1")
    with torch.no_grad():
        for parameter, kept in zip(parameters, before, strict=True):
            parameter.copy_(kept)
    return logits_NK, None


def _trained_classifier(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the last layer (distilled models have two) if it is linear and trained, else none."""
    classifier = model.get_classifier()  # type: ignore[operator]
    layers = classifier if isinstance(classifier, tuple | list) else [classifier]
    if not all(isinstance(layer, nn.Linear | nn.Conv2d) for layer in layers):
        return []
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    return parameters if all(parameter.requires_grad for parameter in parameters) else []
