"""Which parts of a network train. Frozen means frozen: parameters and buffers.

`requires_grad = False` alone leaves the running statistics of BatchNorm moving whenever `train()` is called
(pytorch issue 86590), so a frozen module also stays in evaluation mode, and a digest taken before and after
the run proves that nothing in it changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from timm.models import group_parameters
from torch import nn

from cnn_tl.errors import UsageError


def head(model: nn.Module) -> set[str]:
    """Train the classifier only; distilled models have two."""
    found = model.get_classifier()  # type: ignore[operator]
    classifiers = found if isinstance(found, tuple | list) else [found]
    inside = {id(p) for classifier in classifiers for p in classifier.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in inside}


def everything(model: nn.Module) -> set[str]:
    """Train every parameter."""
    return {name for name, _ in model.named_parameters()}


def last_stages(model: nn.Module, count: int) -> set[str]:
    """Train the last `count` stages, and whatever follows them.

    Raises:
        UsageError: the model has fewer stages, or timm knows none of it.
    """
    *before, after = stages(model)
    if count > len(before):
        raise UsageError(
            f"{type(model).__name__} has {len(before)} stages before its classifier, so the last {count} cannot "
            f"train; set model.freeze to {f'last-1 .. last-{len(before)}' if before else 'head'}, or to all"
        )
    return set().union(after, *before[len(before) - count :])


def stages(model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters by stage, from the pictures to the classifier.

    The stages are timm's own, from its `group_matcher`: four and a stem in a ResNet, one for each block in a ViT. The
    last entry holds the classifier and what timm groups with it; it is no stage that counts.

    Raises:
        UsageError: timm does not know the stages of this family.
    """
    if not hasattr(model, "group_matcher"):
        raise UsageError(
            f"timm does not say where the stages of {type(model).__name__} begin; set model.freeze to head or all"
        )
    groups = group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
    classifier = head(model)
    first = next(number for number in sorted(groups) if classifier & set(groups[number]))
    before = [groups[number] for number in sorted(groups) if number < first]
    return [*before, [name for number in sorted(groups) if number >= first for name in groups[number]]]


FREEZE: dict[str, Callable[[nn.Module], set[str]]] = {
    "head": head,
    "last-stage": partial(last_stages, count=1),
    "all": everything,
}
"""Policy name -> function from a timm model to the names of the parameters that train; `last-N` stands beside them."""


def trainable(model: nn.Module, policy: str) -> set[str]:
    """Return the names of the parameters that train.

    Args:
        policy: a name in `FREEZE`, or "last-3" for the last three stages.

    Raises:
        UsageError: the model has not so many stages.
    """
    known = FREEZE.get(policy)
    return known(model) if known else last_stages(model, int(policy.removeprefix("last-")))


def apply(model: nn.Module, policy: str) -> set[str]:
    """Freeze everything that `trainable` does not name; return the names of what trains.

    Raises:
        UsageError: the model has not so many stages.
    """
    names = trainable(model, policy)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return names


def train_mode(model: nn.Module) -> None:
    """Put the model in training mode, except the modules whose every parameter is frozen.

    A module without parameters (dropout, pooling) follows the module that holds it.
    """

    for _, module, training in _modes(model, "", True):
        module.training = training


def _modes(module: nn.Module, name: str, inherited: bool) -> Iterator[tuple[str, nn.Module, bool]]:
    """Yield every module with its name and whether it is to be in training mode."""
    parameters = list(module.parameters())
    training = any(p.requires_grad for p in parameters) if parameters else inherited
    yield name, module, training
    for child_name, child in module.named_children():
        yield from _modes(child, f"{name}.{child_name}" if name else child_name, training)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


def frozen_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the frozen parameters and of the buffers that `train_mode` holds still."""
    digest = hashlib.sha256()
    for module_name, module, training in _modes(model, "", True):
        parameters = [(name, p) for name, p in module.named_parameters(recurse=False) if not p.requires_grad]
        own = [*parameters, *(() if training else module.named_buffers(recurse=False))]
        for name, tensor in own:
            digest.update(f"{module_name}.{name}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
