"""How sure a trained network is: its logits divided by one temperature, which lies in its classifier's own weights.

A network that trains until its loss stalls is overconfident, one with smoothed labels underconfident; one number,
fitted on validation images and shrunk towards 1 (`temperature_of`), fixes most of it, changes no answer and never
raises the validation loss (Guo et al. 2017, "On calibration of modern neural networks", sec. 4.2). Since it lies in the
weights, predict, ONNX, timm and transformers all have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnn_tl.heads.calibration import temperature_of
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Session
from cnn_tl.training.loop.validation import scores


def divide_by_temperature(
    session: Session[LoopRecipe], model: nn.Module, logits_NK: Tensor, again: Callable[[], Tensor]
) -> Tensor:
    """Fit the temperature on validation logits, divide the classifier by it, and return the logits [N, K] after that.

    A classifier that did not train stays as it is, and so does one whose model does more with its output than a
    temperature passes through; the run says so. The facts get the temperature and the loss before and after.

    Args:
        logits_NK: those of the model as it is. again: makes them anew.
    """
    if session.recipe.train.temperature != "fitted":
        return logits_NK
    parameters = _trained_classifier(model)
    if not parameters:
        session.observer.note("the classifier is no linear layer that trained, so its temperature stays 1")
        return logits_NK
    labels_N = session.manifest.labels("val")
    factor = 1 / temperature_of(logits_NK.double().numpy(), labels_N)
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(factor)
    warmer_NK = again()
    if torch.allclose(warmer_NK, factor * logits_NK, rtol=1e-3, atol=1e-3 * factor):
        session.facts["temperature"] = _fact(session, 1 / factor, logits_NK, warmer_NK)
        return warmer_NK
    session.observer.note(f"{session.card.name} does more than scale with its classifier, so its temperature stays 1")
    with torch.no_grad():
        for parameter, kept in zip(parameters, before, strict=True):
            parameter.copy_(kept)
    return logits_NK


def _trained_classifier(model: nn.Module) -> list[nn.Parameter]:
    """Return what the last layer (distilled models have two) multiplies and adds; nothing if it is of another kind."""
    classifier = model.get_classifier()  # type: ignore[operator]
    layers = classifier if isinstance(classifier, tuple | list) else [classifier]
    if not all(isinstance(layer, nn.Linear | nn.Conv2d) for layer in layers):
        return []
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    return parameters if all(parameter.requires_grad for parameter in parameters) else []


def _fact(session: Session[LoopRecipe], temperature: float, before_NK: Tensor, after_NK: Tensor) -> dict[str, Any]:
    losses = [scores(session, logits_NK)["val_loss"] for logits_NK in (before_NK, after_NK)]
    return {"value": temperature, "val_loss_before": losses[0], "val_loss": losses[1]}
