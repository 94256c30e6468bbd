"""The optimizer: from timm's factory, with a learning rate and weight decay for each group of parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim import Optimizer

from cnn_tl.core.errors import UsageError
from cnn_tl.networks import freeze_policies
from cnn_tl.recipe.resolved import LoopTrain

MOMENTUM = 0.9

_OF_THE_DEVICE = ("fused", "foreach", "capturable")
"""Settings of a group that say how the device computes; a run may resume on another one."""

UNUSABLE = {
    "adahessian": "needs second derivatives",
    "kron": "draws random numbers of its own, so a run could not be resumed to the bit",
}
"""Prefix of the names of timm's optimizers that the loop cannot use -> the reason."""


def make_optimizer(
    model: nn.Module, settings: LoopTrain, device: torch.device, trains: Collection[str], lr: float
) -> Optimizer:
    """Return the optimizer that the recipe names, over the parameters that train in some phase of the run.

    Each group has a key "factor": its learning rate as a multiple of the schedule's.

    Args:
        trains: names of the parameters that train in some phase.
        lr: the peak of the schedule.

    Raises:
        UsageError: there is no such optimizer, its package is missing, or a setting has no effect on it.
    """
    refuse_optimizer(settings)
    name = settings.optimizer
    options: dict[str, Any] = {}
    if device.type == "cuda" and name in ("adam", "adamw"):  # fused SGD fails where later phases add parameters
        options["fused"] = True
    groups = parameter_groups(model, settings, trains)
    try:
        return create_optimizer_v2(
            groups,
            opt=name,
            lr=lr,  # the schedule sets it before each step
            weight_decay=settings.weight_decay,
            momentum=MOMENTUM if settings.momentum is None else settings.momentum,
            **options,
        )
    except (AssertionError, ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"train.optimizer: {name} cannot be used here: {error}; adamw and sgd always can") from error


def parameter_groups(model: nn.Module, settings: LoopTrain, trains: Collection[str]) -> list[dict[str, Any]]:
    """Group parameters by learning rate and weight decay.

    The learning rate of the head is multiplied by `head_lr_factor`; that of each of timm's layers is `layer_decay`
    times that of the next layer towards the head (Clark et al. 2020, ELECTRA, sec. A.1). Norms, biases and parameters
    that the model exempts (`no_weight_decay`, such as position embeddings) have no weight decay.
    """
    head = freeze_policies.head(model)
    layer_decay, head_factor = settings.layer_decay, settings.head_lr_factor
    depths = _depths(model) if layer_decay < 1 else {}
    exempt = set(model.no_weight_decay()) if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if name in trains:
            factor = head_factor if name in head else layer_decay ** depths.get(name, 0)
            decays = parameter.ndim > 1 and name not in exempt
            groups.setdefault((factor, settings.weight_decay if decays else 0.0), []).append(parameter)
    return [{"params": params, "factor": f, "weight_decay": d} for (f, d), params in groups.items()]


def _depths(model: nn.Module) -> dict[str, int]:
    """Return for each parameter how many of timm's layers are between it and the head.

    Raises:
        UsageError: timm does not know the layers of this family.
    """
    if not hasattr(model, "group_matcher"):
        raise UsageError(f"timm does not say what the layers of {type(model).__name__} are; remove train.layer_decay")
    layers: Mapping[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    last = max(layers.values())
    return {name: last - layer for name, layer in layers.items()}


def refuse_optimizer(settings: LoopTrain) -> None:
    """Refuse an optimizer that timm does not have or the loop cannot use, and a momentum without effect.

    Raises:
        UsageError: it is one of these.
    """
    name = settings.optimizer
    known = list_optimizers()
    if name not in known:
        few = ", ".join(n for n in ("adamw", "sgd", "lamb", "lion", "nadamw", "rmsprop") if n in known)
        raise UsageError(f"train.optimizer: timm has no optimiser called {name}; it has {few} and others")
    for start, why in UNUSABLE.items():
        if name.startswith(start):
            raise UsageError(f"train.optimizer: {name} {why}; set adamw or sgd")
    if settings.momentum is not None and not get_optimizer_info(name).has_momentum:
        raise UsageError(f"train.momentum has no effect with train.optimizer: {name}; remove it, or set sgd")


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the tensors of the optimizer's state by names such as "state.3.exp_avg" and (rare) "groups.0.step"."""
    return {name: value for name, value in _entries(optimizer) if isinstance(value, Tensor)}


def state_numbers(optimizer: Optimizer) -> dict[str, Any]:
    """Return the other entries of the optimizer's state and groups, as plain data for JSON."""
    return {name: value for name, value in _entries(optimizer) if _is_plain(value)}


def restore(optimizer: Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Restore the state from the results of `state_tensors` and `state_numbers`."""
    groups = optimizer.state_dict()["param_groups"]
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *numbers.items()]:
        kind, index, key = name.split(".", 2)
        if kind == "groups" and key in _OF_THE_DEVICE:
            continue
        entry = state.setdefault(int(index), {}) if kind == "state" else groups[int(index)]
        entry[key] = tuple(value) if isinstance(value, list) else value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, entry in optimizer.state.items():
        for key, value in entry.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # same memory layout as the parameter: sums in another order differ in the last bit
                entry[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _entries(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    state = optimizer.state_dict()
    for index, entry in state["state"].items():
        yield from ((f"state.{index}.{key}", value) for key, value in entry.items())
    for index, group in enumerate(state["param_groups"]):
        yield from ((f"groups.{index}.{key}", value) for key, value in group.items() if key != "params")


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(item, int | float) for item in value) and bool(value)
    return value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
