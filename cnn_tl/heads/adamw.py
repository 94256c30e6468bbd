"""A linear head, or one with a hidden layer, trained with AdamW on the features.

Epoch e uses view e mod V of each image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_tl.core.errors import DivergedError
from cnn_tl.core.seeds import seed_of
from cnn_tl.heads.problem import Features, FittedHead, Problem, require_finite
from cnn_tl.heads.scaling import Scaling, scaling_of
from cnn_tl.recipe.resolved import AdamwHead

WARMUP = 0.1
"""The share of the steps with a rising learning rate."""


def fit_adamw(problem: Problem, settings: AdamwHead) -> FittedHead:
    """Minimise the weighted cross-entropy with label smoothing by AdamW (Loshchilov and Hutter 2019), on the CPU.

    The learning rate has a linear warm-up, then falls to zero along a cosine. All randomness follows from the seed; the
    caller's generator is not touched. The head keeps no held-out logits: each fold would take as long as the fit.

    Raises:
        DivergedError: the features or the weights are not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(problem.seed, "head"))  # torch.manual_seed seeds the GPU's too
        scaling = scaling_of(_finite(problem.views[0]))
        parameters = _initial(scaling.mean.shape[0], problem.num_classes, settings.hidden)
        loss = _train(problem, settings, scaling, parameters)
    arrays = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in parameters.items()}
    facts = {"kind": "adamw", "epochs": settings.epochs, "loss": loss, "hidden": settings.hidden}
    if settings.hidden is None:
        return scaling.folded(arrays["weight"], arrays["bias"], facts)
    raw_HD = arrays["hidden.weight"] / scaling.scale
    arrays["hidden.bias"] = arrays["hidden.bias"] - raw_HD @ scaling.mean
    arrays["hidden.weight"] = raw_HD
    return _perceptron(
        {name: array.astype(np.float32) for name, array in arrays.items()},
        settings.hidden,
        facts | {"scaling_exponent": scaling.exponent},
    )


def _train(problem: Problem, settings: AdamwHead, scaling: Scaling, parameters: dict[str, Tensor]) -> float:
    """Train the parameters in place; return the mean loss of the last epoch."""
    epochs, batch_size, lr = settings.epochs, settings.batch_size, settings.lr
    labels_N = torch.from_numpy(problem.labels)
    weights_N = torch.from_numpy(problem.image_weights.astype(np.float32))
    steps_per_epoch = math.ceil(len(labels_N) / batch_size)
    decay = [p for p in parameters.values() if p.ndim > 1]
    rest = [p for p in parameters.values() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": settings.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    loss_sum, step, seen = 0.0, 0, -1
    for epoch in range(epochs):
        if (view := epoch % len(problem.views)) != seen:
            features_ND = torch.from_numpy(scaling(_finite(problem.views[view])))
            seen = view
        loss_sum = 0.0
        for chosen in torch.split(torch.randperm(len(labels_N)), batch_size):
            problem.check()
            for group in optimizer.param_groups:
                group["lr"] = lr * _factor(step, epochs * steps_per_epoch)
            logits = _forward(features_ND[chosen], parameters, settings.dropout)
            losses = F.cross_entropy(
                logits, labels_N[chosen], reduction="none", label_smoothing=settings.label_smoothing
            )
            loss = (losses * weights_N[chosen]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += loss.item() * len(chosen)
            step += 1
        if not math.isfinite(loss_sum):
            raise DivergedError(f"the head diverged in epoch {epoch + 1}; try a lower head.lr than {lr:g}")
    return round(loss_sum / len(labels_N), 6)


def _initial(num_features: int, num_classes: int, hidden: int | None) -> dict[str, Tensor]:
    """Return initial parameters: zero for a linear head, those of torch's `Linear` for a hidden layer."""
    if hidden is None:
        made = {"weight": torch.zeros(num_classes, num_features), "bias": torch.zeros(num_classes)}
    else:
        first = torch.nn.Linear(num_features, hidden)
        made = {
            "hidden.weight": first.weight.detach().clone(), "hidden.bias": first.bias.detach().clone(),
            "output.weight": torch.zeros(num_classes, hidden), "output.bias": torch.zeros(num_classes),
        }  # fmt: skip
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def _forward(features_BD: Tensor, parameters: dict[str, Tensor], dropout: float) -> Tensor:
    x = F.dropout(features_BD, dropout)
    if "weight" in parameters:
        return F.linear(x, parameters["weight"], parameters["bias"])
    x = F.dropout(F.gelu(F.linear(x, parameters["hidden.weight"], parameters["hidden.bias"])), dropout)
    return F.linear(x, parameters["output.weight"], parameters["output.bias"])


def _perceptron(arrays: dict[str, Features], hidden: int, facts: dict[str, object]) -> FittedHead:
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise DivergedError("the fitted head is not finite; try a lower head.lr")
    return FittedHead(arrays, len(arrays["output.bias"]), {"kind": "mlp", "hidden": hidden}, facts)


def _factor(step: int, steps: int) -> float:
    warm = round(WARMUP * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _finite(features_ND: Features) -> Features:
    require_finite(features_ND)
    return features_ND
