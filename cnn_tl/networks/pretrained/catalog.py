"""Which models there are, how large they are, and whether their weights are on this machine now."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from cnn_tl.networks.pretrained import hub, known, weights

Place = Literal["package", "cache", "download", "none"]


@dataclass(frozen=True)
class ModelRow:
    """One model of timm's registry.

    Attributes:
        name: what `--model` takes.
        parameters: how many, with the original classifier.
        input_size: side of the images it was trained for, in pixels.
        weights: where the pretrained ones are: in an installed `package`, in the hub's `cache`, to `download`,
            or `none` were published.
        top1: what these get on ImageNet's validation images, in per cent; None where it is not known here.
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
    """Return the names that hold `query`, or match it as a glob.

    The one that is the query comes first, then those that begin with it; among them those with their weights here,
    then well-known ones, each in natural order: resnet9 before resnet50.

    A query with a dot searches the tagged names instead (`resnet50.*`): one model, several sets of weights.
    """
    import timm

    from cnn_tl.networks import classic  # noqa: F401 - they are in timm's list once it is imported

    wanted = (query or "").lower()
    pattern = wanted if any(c in wanted for c in "*?[") else f"*{wanted}*"
    names = [name for name in timm.list_models(pretrained="." in wanted) if fnmatchcase(name, pattern)]
    here = {name for name in names if _place(name) in ("package", "cache")}
    begins = re.split(r"[*?\[]", wanted)[0]

    def rank(name: str) -> tuple[bool, bool, bool, bool, list[tuple[int, str]]]:
        return name != wanted, not name.startswith(begins), name not in here, not _is_well_known(name), _natural(name)

    return sorted(here if here_only else names, key=rank)


def _is_well_known(name: str) -> bool:
    return name in known.TOP1 if "." in name else name in known.NAMES


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts numbers in a name by their size."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def describe(name: str) -> ModelRow:
    """Look one model up; its parameters are counted without giving them memory."""
    import timm
    import torch

    card = weights.find(name)
    with torch.device("meta"):
        model = timm.create_model(name)
    parameters = sum(p.numel() for p in model.parameters())
    top1 = known.TOP1.get(f"{card.architecture}.{card.tag}")
    return ModelRow(name, parameters, card.input_size[-1], _place(name), top1)


def _place(name: str) -> Place:
    card = weights.find(name)
    if weights.packaged(card):
        return "package"
    if not card.has_weights:
        return "none"
    return "cache" if hub.cached(card) else "download"
