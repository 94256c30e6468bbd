"""Which parts of a network train. Frozen means frozen: parameters and buffers.

`requires_grad = False` alone leaves the running statistics of BatchNorm moving whenever `train()` is called
(pytorch issue 86590), so a frozen module also stays in evaluation mode, and a digest taken before and after
the run proves that nothing in it changed.
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
"""A name in `FREEZE`, "last-3", or patterns of names of modules and parameters."""

BatchNormMode = Literal["train", "eval", "sync"]


def head(model: nn.Module) -> set[str]:
    """Train the classifier only; distilled models have two."""
    found = model.get_classifier()  # type: ignore[operator]
    classifiers = found if isinstance(found, tuple | list) else [found]
    inside = {id(p) for classifier in classifiers for p in classifier.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in inside}


def everything(model: nn.Module) -> set[str]:
    """Train every parameter."""
    return {name for name, _ in model.named_parameters()}


def norms(model: nn.Module) -> set[str]:
    """Train the normalisation layers and the classifier (Frankle et al. 2020, "Training BatchNorm and only BatchNorm").

    A normalisation layer is a module that torch or timm calls so, and whose own parameters have one dimension.

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
    """Train what the patterns name, and the classifier, which is new and no use frozen.

    Args:
        patterns: each is the name of a parameter or of a module (with all below it), as `named_parameters` and
            `named_modules` give them; `*` and `?` stand for any text and any letter.

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
    """Say whether the pattern is the name of a parameter or of a module that holds it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:depth]), pattern) for depth in range(1, len(parts) + 1))


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
    """Return the names of the parameters by stage, from the images to the classifier.

    The stages are timm's own, from its `group_matcher`: four and a stem in a ResNet, one for each block in a ViT. The
    last entry holds the classifier and what timm groups with it; it is no stage that counts. It is empty where a model
    has no classifier yet.

    Raises:
        UsageError: timm does not know the stages of this family.
    """
    if not hasattr(model, "group_matcher"):
        raise _stages_unknown(model)
    try:
        groups = group_parameters(model, model.group_matcher(coarse=True))  # type: ignore[operator]
    except AssertionError:  # what timm says where it knows blocks but no stages, as in RDNet
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
"""Policy name -> function from a timm model to the names of the parameters that train; `last-N` and lists of patterns
stand beside them."""


def trainable(model: nn.Module, policy: Policy) -> set[str]:
    """Return the names of the parameters that train.

    Args:
        policy: a name in `FREEZE`, "last-3" for the last three stages, or a list of names and patterns.

    Raises:
        UsageError: the model has not so many stages, or nothing of that name.
    """
    if not isinstance(policy, str):
        return named(model, policy)
    known = FREEZE.get(policy)
    return known(model) if known else last_stages(model, int(policy.removeprefix("last-")))


def apply(model: nn.Module, policy: Policy, bn: BatchNormMode = "train") -> set[str]:
    """Freeze everything that `trainable` does not name; return the names of what trains.

    Args:
        bn: "eval" holds the running statistics of every BatchNorm, in the parts that train too.

    Raises:
        UsageError: the model has not so many stages, or nothing of that name.
    """
    names = trainable(model, policy)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            vars(module)[_HELD] = bn == "eval"
    return names


_HELD = "_cnn_tl_statistics_are_held"


def train_mode(model: nn.Module) -> None:
    """Put the model in training mode, except the modules whose every parameter is frozen, or whose statistics are held.

    A module without parameters (dropout, pooling) follows the module that holds it.
    """
    for _, module, training in _modes(model, "", True):
        module.training = training


def _modes(module: nn.Module, name: str, inherited: bool) -> Iterator[tuple[str, nn.Module, bool]]:
    """Yield every module with its name and whether it is to be in training mode."""
    parameters = list(module.parameters())
    training = any(p.requires_grad for p in parameters) if parameters else inherited
    training = training and not vars(module).get(_HELD, False)
    yield name, module, training
    for child_name, child in module.named_children():
        yield from _modes(child, f"{name}.{child_name}" if name else child_name, training)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


@dataclass(frozen=True)
class StageReceipt:
    """What happened to one stage of a network.

    Attributes:
        name: "stem", "stage 1", ..., "head".
        trainable, parameters: how many of its parameters train, and how many it has.
        batch_norm: "train", "eval", or "mixed": whether its running statistics move; "none" where it has none.
        sha256: of its frozen parameters and buffers; empty where nothing in it is frozen.
    """

    name: str
    trainable: int
    parameters: int
    batch_norm: str
    sha256: str


def receipt(model: nn.Module) -> list[StageReceipt]:
    """Return the state of every stage; two of them, taken before and after, show that the frozen part stood still."""
    modes = {module: training for _, module, training in _modes(model, "", True)}
    return [_stage_receipt(model, name, set(names), modes) for name, names in named_stages(model)]


def named_stages(model: nn.Module) -> list[tuple[str, list[str]]]:
    """Return `stages` with their names: stem, stage 1, ..., head; or one called network where timm knows none."""
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
    """Return the SHA-256 of the frozen parameters and of the buffers that `train_mode` holds still."""
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
