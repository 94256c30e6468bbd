"""Reading a weights file that may be damaged or hostile, and loading it strictly into a model."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.networks.graph.session import AUXILIARY

State = dict[str, Tensor]
Filter = Callable[..., dict[str, Any]]

WRAPPERS = ("model_state_dict", "model_state", "encoder")
"""Keys under which checkpoints keep their weights, in addition to those that timm knows (state_dict, model, EMA)."""


def read(path: Path) -> State:
    """Read a weights file: safetensors, or torch.save's format without executing anything in it.

    The wrappers that training scripts put around the tensors are removed; floating-point tensors become float32.

    Raises:
        ArtefactError: the file is missing, truncated, a pickle of code, TorchScript or a zip bomb, contains NaN, or
            holds no weights.
    """
    from timm.models import load_state_dict

    if not path.is_file():
        raise ArtefactError(f"{printable(path)} is {'not a file' if path.exists() else 'missing'}")
    try:
        _refuse_bomb(path)
        state = _unwrap(load_state_dict(str(path)))
    except Exception as error:  # on a hostile file the readers can raise anything
        reason = _brief(error)
        if "weights_only" in str(error):  # torch's message recommends the unsafe way
            reason = "it holds something other than tensors, and none of that was run"
        raise ArtefactError(
            f"{printable(path)} is not a whole weights file (safetensors, or a state_dict saved by torch): {reason}"
        ) from error
    if not any(isinstance(value, Tensor) for value in state.values()):
        raise ArtefactError(f"{printable(path)} holds no weights (a table of named tensors)")
    return {name: _plain(tensor, name, path) for name, tensor in state.items()}


def fit(model: nn.Module, state: State, filter_fn: Filter | None, where: str) -> None:
    """Load tensors into a timm model; only those of its classifier may be missing or have another size.

    Args:
        filter_fn: timm's translation of foreign names and shapes for this model.
        where: where the tensors came from, for the message.

    Raises:
        ArtefactError: tensors are missing, unknown to the model, or have another shape.
    """
    name = model.pretrained_cfg["architecture"]  # type: ignore[index]
    try:
        state = _translate(state, filter_fn, model)
    except Exception as error:  # timm's translations do not check their input
        raise ArtefactError(f"{where} does not fit {name}: {_brief(error)}") from error
    own = model.state_dict()
    fitting = {key: tensor for key, tensor in state.items() if key in own and _fits(tensor, own[key])}
    free = (*_classifier(model), *AUXILIARY)
    wrong = [key for key in own | state if key not in fitting and not key.startswith(free)]
    lacking = [key for key in wrong if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in wrong if key not in own]
    both = [key for key in wrong if key in own and key in state]
    unlike = [f"{key} {[*state[key].shape]} for {[*own[key].shape]}" for key in both]
    if lacking or unknown or unlike:
        complaints = [_some("lacks", lacking), _some("adds", unknown), _some("has in another shape", unlike)]
        raise ArtefactError(f"{where} does not fit {name}: it {'; it '.join(filter(None, complaints))}")
    model.load_state_dict(fitting, strict=False)


def in_order(state: State, model: nn.Module, where: str) -> State:
    """Give the tensors of a package the names of the model's tensors, one to one in their order.

    Raises:
        ArtefactError: the counts or the shapes differ.
    """
    own = model.state_dict()
    if [t.shape for t in state.values()] != [t.shape for t in own.values()]:
        raise ArtefactError(f"{where} does not hold the tensors of this model; reinstall the package")
    return dict(zip(own, state.values(), strict=True))


def _refuse_bomb(path: Path) -> None:
    """Refuse archives that would unpack to more than their size: torch itself never compresses."""
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(f"it would unpack to {unpacked:,} bytes")


def _unwrap(state: dict[str, Any]) -> dict[str, Any]:
    """Remove the wrappers that timm's reader leaves, and Lightning's prefix."""
    from timm.models import clean_state_dict

    for key in WRAPPERS:
        if isinstance(state.get(key), dict):
            state = clean_state_dict(state[key])
    if all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): value for name, value in state.items()}
    return state


def _plain(tensor: Any, name: str, path: Path) -> Tensor:
    """Return an ordinary tensor in memory, float32 if it is floating-point.

    Raises:
        ArtefactError: it is not an ordinary tensor, or holds NaN or infinity.
    """
    if not isinstance(tensor, Tensor):
        raise ArtefactError(f"{printable(path)}: {name} is a {type(tensor).__name__}, not a tensor")
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise ArtefactError(f"{printable(path)}: {name} is sparse, quantised or empty, not ordinary weights")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ArtefactError(f"{printable(path)}: {name} claims to be larger than the file's bytes for it")
    if not tensor.is_floating_point():
        return tensor.detach()
    plain = tensor.detach().float()
    if not is_finite(plain):
        raise ArtefactError(f"{printable(path)} holds NaN or infinity in {name}")
    return plain


def is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor on the CPU holds neither NaN nor infinity; numpy is 50 times as fast as torch at this."""
    has_type_in_numpy = tensor.dtype in (torch.float16, torch.float32, torch.float64)
    return bool(np.isfinite((tensor if has_type_in_numpy else tensor.float()).numpy()).all())


def _translate(state: State, filter_fn: Filter | None, model: nn.Module) -> State:
    if filter_fn is None:
        return state
    try:
        return filter_fn(state, model)
    except TypeError:  # some of timm's translations take one argument
        return filter_fn(state)


def _classifier(model: nn.Module) -> tuple[str, ...]:
    """Return the prefixes of the names of the classifier's tensors; distilled models have two classifiers."""
    names: str | Iterable[str] = model.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _fits(theirs: Tensor, ours: Tensor) -> bool:
    return theirs.shape == ours.shape and theirs.is_floating_point() == ours.is_floating_point()


def _some(verb: str, names: Sequence[str], shown: int = 2) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{verb} {', '.join(names[:shown])}{more}" if names else ""


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."
