"""Heads that are fitted on the features of a frozen backbone, each ending as one linear layer.

The features are standardised for the fit (mean 0, variance 1 over the training pictures) and the standardisation is
folded into the weights afterwards, so the head is an ordinary classifier on the raw features.

Shapes: N pictures, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cnn_tl.errors import DivergedError
from cnn_tl.runtime import seed_of

PENALTIES = [10.0**exponent for exponent in (0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0)]
"""Strong to weak, so that each fit starts from the one before it."""

MAX_ITERATIONS = 500
FOLDS = 5
CROSS_VALIDATION_PICTURES = 2_000
"""The penalty is chosen on at most about this many pictures; more would cost minutes and move it hardly at all."""


@dataclass(frozen=True)
class LinearHead:
    """A fitted head: logits [N, K] = features [N, D] @ weight.T [D, K] + bias [K].

    Attributes:
        facts: what the fit chose and how it went, plain data for JSON.
    """

    weight: Tensor
    bias: Tensor
    facts: dict[str, Any] = field(default_factory=dict)


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    penalty: float | None,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> LinearHead:
    """Fit multinomial logistic regression by L-BFGS (Nocedal and Wright, Numerical Optimization, ch. 7).

    Minimises mean cross-entropy + penalty / 2 * |W|^2 over standardised features; the bias is not penalised. Without
    a penalty, the one with the lowest log loss in stratified cross-validation on these pictures is taken.

    Args:
        features: float32 [N, D]. labels: int64 [N] in 0..K-1.
        check: called again and again while the fit goes on; what it raises ends the fit.

    Raises:
        DivergedError: the features or the fitted head are not finite.
    """
    standard, mean, scale = _standardised(features)
    facts: dict[str, Any] = {"kind": "lbfgs", "penalty_chosen": penalty is None}
    if penalty is None:
        penalty, facts["cross_validation_log_loss"] = choose_penalty(
            standard, labels, num_classes, seed, check
        )
    weight, bias, iterations = _minimise(standard, labels, num_classes, penalty, None, check)
    facts |= {"penalty": penalty, "iterations": iterations, "converged": iterations < MAX_ITERATIONS}
    return _folded(weight, bias, mean, scale, facts)


def fit_prototype(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    penalty: float | None,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> LinearHead:
    """Fit the nearest class mean: one Gaussian a class with a shared spherical variance (Snell et al. 2017, sec. 2.3).

    `penalty`, `seed` and `check` have no meaning here.
    """
    standard, mean, scale = _standardised(features)
    prototypes_KD = torch.stack([standard[labels == k].mean(0) for k in range(num_classes)])
    variance = (standard - prototypes_KD[labels]).square().sum(1).mean().clamp_min(1e-12)
    weight = prototypes_KD / variance
    bias = -prototypes_KD.square().sum(1) / (2 * variance)
    return _folded(weight, bias, mean, scale, {"kind": "prototype"})


HEADS: dict[str, Callable[..., LinearHead]] = {"lbfgs": fit_logistic, "prototype": fit_prototype}
"""Kind -> function (features, labels, num_classes, *, penalty, seed, check) -> LinearHead."""


def choose_penalty(
    standard: Tensor, labels: Tensor, num_classes: int, seed: int, check: Callable[[], None]
) -> tuple[float, float | None]:
    """Return the penalty of `PENALTIES` with the lowest log loss in stratified cross-validation, and that log loss.

    With fewer than two pictures in some class nothing can be left out, and a middling penalty is taken.
    """
    keep = _stratified_sample(labels, CROSS_VALIDATION_PICTURES, seed)
    standard, labels = standard[keep], labels[keep]
    folds = min(FOLDS, int(torch.bincount(labels, minlength=num_classes).min()))
    if folds < 2:
        return 0.1, None
    fold_of = _stratified_folds(labels, folds, seed)
    losses = torch.zeros(len(PENALTIES), dtype=torch.float64)
    for fold in range(folds):
        fit, held_out = fold_of != fold, fold_of == fold
        start = None
        for index, penalty in enumerate(PENALTIES):
            weight, bias, _ = _minimise(
                standard[fit], labels[fit], num_classes, penalty, start, check, tolerance=1e-4
            )
            start = (weight, bias)
            logits = F.linear(standard[held_out], weight, bias)
            losses[index] += F.cross_entropy(logits.double(), labels[held_out], reduction="sum")
    best = int(losses.argmin())
    return PENALTIES[best], float(losses[best]) / len(labels)


def _minimise(
    standard: Tensor,
    labels: Tensor,
    num_classes: int,
    penalty: float,
    start: tuple[Tensor, Tensor] | None,
    check: Callable[[], None],
    tolerance: float = 1e-6,
) -> tuple[Tensor, Tensor, int]:
    """Minimise the convex objective from `start`; return weight [K, D], bias [K] and the number of iterations."""
    if start is None:
        start = standard.new_zeros(num_classes, standard.shape[1]), standard.new_zeros(num_classes)
    weight, bias = (tensor.clone().requires_grad_() for tensor in start)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITERATIONS, history_size=20, tolerance_grad=tolerance, tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        check()
        optimiser.zero_grad()
        loss = F.cross_entropy(F.linear(standard, weight, bias), labels) + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(objective)  # type: ignore[no-untyped-call]
    iterations = int(optimiser.state[weight]["n_iter"])
    return weight.detach(), bias.detach(), iterations


def _folded(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor, facts: dict[str, Any]) -> LinearHead:
    """Fold x -> (x - mean) / scale into the head."""
    raw = weight / scale
    shifted = bias - raw @ mean
    if not (raw.isfinite().all() and shifted.isfinite().all()):
        raise DivergedError("the fitted head is not finite; try a larger head.penalty")
    return LinearHead(raw, shifted, facts)


def _standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the standardised features [N, D], the means [D] and the scales [D]: 1 for a feature that never changes."""
    if not features.isfinite().all():
        raise DivergedError("the backbone gives features that are NaN or infinite; try --set run.precision=fp32")
    mean, deviation = features.mean(0), features.std(0, correction=0)
    scale = torch.where(deviation > 1e-6 * deviation.max().clamp_min(1e-12), deviation, torch.ones_like(deviation))
    return (features - mean) / scale, mean, scale


def _stratified_folds(labels: Tensor, folds: int, seed: int) -> Tensor:
    """Return a fold in 0..folds-1 for each picture, the classes dealt out evenly. (sklearn's would cost its import.)"""
    generator = torch.Generator().manual_seed(seed_of(seed, "folds"))
    fold_of = torch.empty_like(labels)
    for k in range(int(labels.max()) + 1):
        members = (labels == k).nonzero().flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        fold_of[shuffled] = torch.arange(len(members)) % folds
    return fold_of


def _stratified_sample(labels: Tensor, size: int, seed: int) -> Tensor:
    """Return the indices of about `size` pictures, each class with its share and with at least `FOLDS`."""
    if len(labels) <= size:
        return torch.arange(len(labels))
    generator = torch.Generator().manual_seed(seed_of(seed, "penalty sample"))
    chosen = []
    for k in range(int(labels.max()) + 1):
        members = (labels == k).nonzero().flatten()
        count = max(FOLDS, math.ceil(size * len(members) / len(labels)))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
