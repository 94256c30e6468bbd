"""Which parts of a network train. Frozen means frozen: parameters and buffers.

`requires_grad = False` alone leaves the running statistics of BatchNorm moving whenever `train()` is called
(pytorch issue 86590), so a frozen module also stays in evaluation mode, and a digest taken before and after
the run proves that nothing in it changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import nn


def head(model: nn.Module) -> set[str]:
    """Train the classifier only; distilled models have two."""
    found = model.get_classifier()  # type: ignore[operator]
    classifiers = found if isinstance(found, tuple | list) else [found]
    inside = {id(p) for classifier in classifiers for p in classifier.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in inside}


def everything(model: nn.Module) -> set[str]:
    """Train every parameter."""
    return {name for name, _ in model.named_parameters()}


FREEZE: dict[str, Callable[[nn.Module], set[str]]] = {"head": head, "all": everything}
"""Policy name -> function from a timm model to the names of the parameters that train."""


def apply(model: nn.Module, policy: str) -> set[str]:
    """Freeze everything that `FREEZE[policy]` does not name; return the names of what trains."""
    trainable = FREEZE[policy](model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return trainable


def train_mode(model: nn.Module) -> None:
    """Put the model in training mode, except the modules whose every parameter is frozen.

    A module without parameters (dropout, pooling) follows the module that holds it.
    """

    def set_mode(module: nn.Module, inherited: bool) -> None:
        parameters = list(module.parameters())
        training = any(p.requires_grad for p in parameters) if parameters else inherited
        module.training = training
        for child in module.children():
            set_mode(child, training)

    set_mode(model, True)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return the numbers of trainable and of all parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


def frozen_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the frozen parameters and of the buffers of the modules that hold no trainable one."""
    digest = hashlib.sha256()
    for module_name, module in model.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            digest.update(f"{module_name}.{name}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
