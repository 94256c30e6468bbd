"""Freeze policies: which parameters of a network train, and a receipt that the others, and their buffers, stand still.

`requires_grad = False` alone does not stop the running statistics of BatchNorm once `train()` is called (pytorch issue
86590). So a frozen module also stays in evaluation mode, and a digest before and after the run proves that nothing in
it has changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Literal

import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnn_tl.core.errors import UsageError

Policy = str | Sequence[str]
"""A name in `FREEZE`, "last-3", or a list of module and parameter names, with wildcards."""

BatchNormMode = Literal["train", "eval", "sync"]


def head(model: nn.Module) -> set[str]:
    """Train only the classifier; distilled models have two."""
    found = model.get_classifier()  # type: ignore[operator]
    classifiers = found if isinstance(found, tuple | list) else [found]
    inside = {id(p) for classifier in classifiers for p in classifier.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in inside}


def everything(model: nn.Module) -> set[str]:
    """Train every parameter."""
    return {name for name, _ in model.named_parameters()}


def norms(model: nn.Module) -> set[str]:
    """Train the normalisation layers and the classifier (Frankle et al. 2020, "Training BatchNorm and only BatchNorm").

    A normalisation layer is a module with "norm" in its class name, whose own parameters have one dimension.

    Raises:
        UsageError: the model has none.
    """
    names = set()
    for module_name, module in model.named_modules():
        if "norm" in type(module).__name__.lower():
            own = module.named_parameters(prefix=module_name, recurse=False)
            names |= {name for name, parameter in own if parameter.ndim == 1}
    if not names:
        raise UsageError(f"{type(model).__name__} has no normalisation layers; set model.freeze: head or last-stage")
    return names | head(model)


def named(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Train what the patterns match, and the classifier, which is new and would be useless frozen.

    Args:
        patterns: each is the name of a parameter or of a module (with everything inside it), as in `named_parameters`
            and `named_modules`; `*` matches any text and `?` any character.

    Raises:
        UsageError: a pattern matches nothing.
    """
    names: set[str] = set()
    for pattern in patterns:
        found = {name for name, _ in model.named_parameters() if _matches(name, pattern)}
        if not found:
            tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters()))
            raise UsageError(
                f"model.freeze or model.unfreeze: nothing in {type(model).__name__} is called {pattern!r}; "
                f"its parts are {tops}"
            )
        names |= found
    return names | head(model)


def _matches(name: str, pattern: str) -> bool:
    """Return whether the pattern matches the name of a parameter or of a module that contains it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:depth]), pattern) for depth in range(1, len(parts) + 1))


def last_stages(model: nn.Module, count: int) -> set[str]:
    """Train the last `count` stages, and everything after them.

    Raises:
        UsageError: the model has fewer stages, or timm does not know its stages.
    """
    *before, after = stages(model)
    if count > len(before):
        raise UsageError(
            f"{type(model).__name__} has {len(before)} stages before its classifier, so the last {count} cannot "
            f"train; set model.freeze to {f'last-1 .. last-{len(before)}' if before else 'head'}, or to all"
        )
    return set().union(after, *before[len(before) - count :])


def stages(model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters by stage, from the input to the classifier.

    The stages are those of timm's `group_matcher`: a stem and four stages in a ResNet, one for each block in a ViT. The
    last entry holds the classifier and what timm groups with it, and does not count as a stage. It is empty if the
    model has no classifier.

    Raises:
        UsageError: timm does not know the stages of this family.
    """
    if not hasattr(model, "group_matcher"):
        raise _stages_unknown(model)
    try:
        groups = group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
    except AssertionError:  # timm raises this where it knows blocks but no stages, as in RDNet
        raise _stages_unknown(model) from None
    classifier = head(model)
    first = next((number for number in sorted(groups) if classifier & set(groups[number])), max(groups) + 1)
    before = [groups[number] for number in sorted(groups) if number < first]
    return [*before, [name for number in sorted(groups) if number >= first for name in groups[number]]]


def _stages_unknown(model: nn.Module) -> UsageError:
    name = type(model).__name__
    return UsageError(f"timm does not say where the stages of {name} begin; set model.freeze to head or all")


FREEZE: dict[str, Callable[[nn.Module], set[str]]] = {
    "head": head,
    "last-stage": partial(last_stages, count=1),
    "norm": norms,
    "all": everything,
}
"""Policy name -> function from a timm model to the names of the parameters that train. `trainable` also takes `last-N`
and lists of patterns."""


def trainable(model: nn.Module, policy: Policy) -> set[str]:
    """Return the names of the parameters that train.

    Args:
        policy: a name in `FREEZE`, "last-3" for the last three stages, or a list of names and patterns.

    Raises:
        UsageError: the model has fewer stages, or nothing of that name.
    """
    if not isinstance(policy, str):
        return named(model, policy)
    known = FREEZE.get(policy)
    return known(model) if known else last_stages(model, int(policy.removeprefix("last-")))


def apply(model: nn.Module, policy: Policy, bn: BatchNormMode = "train") -> set[str]:
    """Freeze every parameter that `trainable` does not name; return the names of those that train.

    Args:
        bn: "eval" also freezes the running statistics of every BatchNorm that trains.

    Raises:
        UsageError: the model has fewer stages, or nothing of that name.
    """
    names = trainable(model, policy)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            vars(module)[_STATISTICS_FROZEN] = bn == "eval"
    return names


_STATISTICS_FROZEN = "_cnn_tl_statistics_frozen"


def train_mode(model: nn.Module) -> None:
    """Put the model in training mode, except modules with only frozen parameters or with frozen statistics.

    A module without parameters (dropout, pooling) has the mode of the module that contains it.
    """
    for _, module, training in _modes(model, "", True):
        module.training = training


def _modes(module: nn.Module, name: str, inherited: bool) -> Iterator[tuple[str, nn.Module, bool]]:
    """Yield every module with its name and whether it should be in training mode."""
    parameters = list(module.parameters())
    training = any(p.requires_grad for p in parameters) if parameters else inherited
    training = training and not vars(module).get(_STATISTICS_FROZEN, False)
    yield name, module, training
    for child_name, child in module.named_children():
        yield from _modes(child, f"{name}.{child_name}" if name else child_name, training)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the number of trainable parameters and of all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


@dataclass(frozen=True)
class StageReceipt:
    """What happened to one stage of a network.

    Attributes:
        name: "stem", "stage 1", ..., "head".
        trainable, parameters: the number of its parameters that train, and of all.
        batch_norm: the mode of its BatchNorm layers: "train", "eval" or "mixed"; "none" if it has none.
        sha256: of its frozen parameters and buffers; empty if nothing in it is frozen.
    """

    name: str
    trainable: int
    parameters: int
    batch_norm: str
    sha256: str


def receipt(model: nn.Module) -> list[StageReceipt]:
    """Return the state of every stage; compared before and after a run, it shows that nothing frozen changed."""
    modes = {module: training for _, module, training in _modes(model, "", True)}
    return [_stage_receipt(model, name, set(names), modes) for name, names in named_stages(model)]


def named_stages(model: nn.Module) -> list[tuple[str, list[str]]]:
    """Return `stages` with their names: stem, stage 1, ..., head; or a single one called network if timm knows none."""
    try:
        *before, last = stages(model)
    except UsageError:  # timm does not know its stages
        return [("network", [name for name, _ in model.named_parameters()])]
    return [*((f"stage {number}" if number else "stem", names) for number, names in enumerate(before)), ("head", last)]


def _stage_receipt(model: nn.Module, stage: str, names: set[str], modes: dict[nn.Module, bool]) -> StageReceipt:
    parameters = {name: p for name, p in model.named_parameters() if name in names}
    holders = {name.rpartition(".")[0] for name in names}
    frozen: list[tuple[str, Tensor]] = [(name, p) for name, p in parameters.items() if not p.requires_grad]
    statistics = set()
    for name, module in model.named_modules():
        if name not in holders:
            continue
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            statistics.add(modes[module])
        if not modes[module]:
            frozen += module.named_buffers(prefix=name, recurse=False)
    batch_norm = {frozenset(): "none", frozenset({True}): "train", frozenset({False}): "eval"}.get(
        frozenset(statistics), "mixed"
    )
    trainable = sum(p.numel() for p in parameters.values() if p.requires_grad)
    digest = _digest(frozen) if frozen else ""
    return StageReceipt(stage, trainable, sum(p.numel() for p in parameters.values()), batch_norm, digest)


def frozen_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the frozen parameters and of the buffers that `train_mode` keeps from changing."""
    frozen: list[tuple[str, Tensor]] = []
    for module_name, module, training in _modes(model, "", True):
        own: list[tuple[str, Any]] = [(n, p) for n, p in module.named_parameters(recurse=False) if not p.requires_grad]
        own += () if training else module.named_buffers(recurse=False)
        frozen += [(f"{module_name}.{name}", tensor) for name, tensor in own]
    return _digest(frozen)


def _digest(tensors: Sequence[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
