"""The backbones that are compared: those whose weights are here, or those that the user names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cnn_tl.core.errors import UsageError, printable
from cnn_tl.networks.graph import shipped
from cnn_tl.networks.pretrained import catalog
from cnn_tl.networks.pretrained.weights import PACKAGES, find
from cnn_tl.recipe.messages import explained
from cnn_tl.recipe.schema import Model


@dataclass(frozen=True)
class Candidate:
    """A backbone at an image size.

    Attributes:
        model: timm's name, with or without a tag.
        weights: the user's own weights file; None: the published ones.
        image_size: side of its images in pixels; None: the model's own.
    """

    model: str
    weights: str | None = None
    image_size: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords of `cnn_tl.train` that choose it."""
        given = {"model": self.model, "weights": self.weights, "image_size": self.image_size}
        return {name: value for name, value in given.items() if value is not None}

    def __str__(self) -> str:
        """Return the model's name, and its image size if that is not the model's own."""
        size = f" at {self.image_size} px" if self.image_size else ""
        return f"{printable(self.model)}{size}"


def candidates_of(
    named: Sequence[str], sizes: Sequence[int], default: Candidate | None = None
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates, each model at each size, and the default models that are left out, as their names.

    Args:
        named: `MODEL` or `MODEL=FILE`; several may be joined by commas. Empty: the backbones whose package is here.
        sizes: sides in pixels; empty: that of `default`, or each model's own.
        default: the backbone of the recipe, which is among the candidates unless others are named.

    Raises:
        UsageError: there is no such model, or an image size is impossible.
    """
    for side in sizes:
        _require_size(side)
    models, missing = (_named(named), []) if named else _shipped(default)
    sides: list[int | None] = [*sizes] or [default.image_size if default is not None else None]
    found = [Candidate(name, weights, _own(name, weights, side)) for name, weights in models for side in sides]
    return list(dict.fromkeys(found)), missing


def _require_size(side: int) -> None:
    """Refuse what a recipe would refuse.

    Raises:
        UsageError: it is too small or too large.
    """
    try:
        Model(image_size=side)
    except ValidationError as error:
        raise UsageError(f"--image-sizes: {explained(error)}") from None


def _named(texts: Iterable[str]) -> list[tuple[str, str | None]]:
    found = []
    for text in texts:
        first, _, file = text.partition("=")
        alone = "," not in first and Path(file).is_file()  # a path may hold commas
        parts = [text] if alone else text.split(",")
        for part in parts:
            name, equals, file = part.strip().partition("=")
            if not name or (equals and not file):
                raise UsageError(f"--models {printable(text)!r}: write it as MODEL or MODEL=FILE, joined by commas")
            found.append((name, file or None))
    for name, _ in found:
        _require_model(name)
    return found


def _require_model(name: str) -> None:
    """Refuse a mistyped name before any work; the default models are known without loading timm.

    Raises:
        UsageError: timm has no such model.
    """
    own = shipped.read(name.partition(".")[0])
    if (own is None or name not in own.names) and catalog.lists_all():
        find(name)


def _shipped(default: Candidate | None) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Return the default models whose package is installed, after the recipe's own, and the names of the others."""
    models = [] if default is None else [(default.model, default.weights)]
    missing = []
    for name in PACKAGES:
        own = shipped.read(name)
        if own is not None and own.published.file() is not None:
            models.append((name, None))
        elif (name, None) not in models:
            missing.append(name)
    return list(dict.fromkeys(models)), missing


def _own(name: str, weights: str | None, side: int | None) -> int | None:
    """Return None for a default model's own size: it then needs no torch, and `train` no flag."""
    own = shipped.read(name.partition(".")[0])
    return None if own is not None and side == own.info.preprocessing.height else side
