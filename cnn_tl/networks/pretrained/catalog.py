"""`cnn-tl models`: which models exist, how large they are, and whether their weights are on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Literal

from cnn_tl.networks.graph import shipped
from cnn_tl.networks.pretrained import hub, known, weights

Place = Literal["package", "cache", "download", "none"]


@dataclass(frozen=True)
class ModelRow:
    """One model of timm's registry.

    Attributes:
        name: what `--model` takes.
        parameters: their number, with the original classifier.
        input_size: side of the images it was trained on, in pixels.
        weights: where the pretrained weights are: in an installed `package`, in the hub's `cache`, to `download`, or
            `none` if there are none.
        top1: their accuracy on ImageNet's validation images, in per cent; None if unknown here.
    """

    name: str
    parameters: int
    input_size: int
    weights: Place
    top1: float | None = None

    @property
    def here(self) -> bool:
        """Whether the weights are on this machine."""
        return self.weights in ("package", "cache")


def search(query: str | None = None, limit: int = 20, here_only: bool = False) -> list[ModelRow]:
    """Describe the first `limit` models that match, in the order of `matching`."""
    return [describe(name) for name in matching(query, here_only)[:limit]]


def matching(query: str | None = None, here_only: bool = False) -> list[str]:
    """Return the names that contain `query`, or match it as a glob.

    An exact match comes first, then names that begin with the query, then those whose weights are on this machine,
    then well-known ones; each in natural order: resnet9 before resnet50.

    A query with a dot searches the tagged names instead (`resnet50.*`): one model, several sets of weights.
    """
    wanted = (query or "").lower()
    pattern = wanted if any(c in wanted for c in "*?[") else f"*{wanted}*"
    names = [name for name in _all(tagged="." in wanted) if fnmatchcase(name, pattern)]
    here = {name for name in names if _place(name) in ("package", "cache")}
    begins = re.split(r"[*?\[]", wanted)[0]

    def rank(name: str) -> tuple[bool, bool, bool, bool, list[tuple[int, str]]]:
        return name != wanted, not name.startswith(begins), name not in here, not _is_well_known(name), _natural(name)

    return sorted(here if here_only else names, key=rank)


def lists_all() -> bool:
    """Return whether all models are known: without timm only those are that need no torch."""
    return find_spec("timm") is not None and find_spec("torch") is not None


def _all(*, tagged: bool) -> list[str]:
    if not lists_all():
        return [
            name for one in map(shipped.read, shipped.names()) if one for name in one.names if ("." in name) == tagged
        ]
    import timm

    from cnn_tl.networks import classic  # noqa: F401 - registers its models with timm

    return timm.list_models(pretrained=tagged)


def _is_well_known(name: str) -> bool:
    return name in known.TOP1 if "." in name else name in known.NAMES


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that compares the numbers in a name by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def describe(name: str) -> ModelRow:
    """Describe one model; its parameters are counted on the meta device, without memory."""
    if not lists_all():
        own = shipped.read(name.partition(".")[0])
        assert own is not None, "one of `_all`"
        return ModelRow(
            name, own.parameters, own.info.preprocessing.height, _place(name), known.TOP1.get(own.names[-1])
        )
    import timm
    import torch

    cfg = weights.find(name)
    with torch.device("meta"):
        model = timm.create_model(name)
    parameters = sum(p.numel() for p in model.parameters())
    top1 = known.TOP1.get(f"{cfg.architecture}.{cfg.tag}")
    return ModelRow(name, parameters, cfg.input_size[-1], _place(name), top1)


def _place(name: str) -> Place:
    if not lists_all():
        own = shipped.read(name.partition(".")[0])
        return "package" if own is not None and own.published.file() else "download"
    cfg = weights.find(name)
    if weights.packaged(cfg):
        return "package"
    if not cfg.has_weights:
        return "none"
    return "cache" if hub.cached(cfg) else "download"
