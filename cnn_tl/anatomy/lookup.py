"""Find the network to inspect, and what trains in it: a timm model by name, or that of a run folder or a bundle."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl import recipe as recipes
from cnn_tl.core.imports import require_torch
from cnn_tl.networks import bundle
from cnn_tl.recipe.types import FREEZE_PATTERN

if TYPE_CHECKING:
    from cnn_tl.anatomy.inspected_network import Subject
    from cnn_tl.anatomy.table import Training


def look_up(
    model: str, *, mode: str | None, freeze: str | Sequence[str] | None, image_size: int | None
) -> tuple[Subject, Training]:
    """Return the network and what trains in it, for `table.inspect`.

    Args:
        model: a timm name, a run folder or a bundle.
        mode: show what trains in this mode; by default that of the run, else freeze.
        freeze: a policy as in the recipe's `model.freeze`; by default that of the run, or of the mode.
        image_size: side of the network's input in pixels; by default the model's own.

    Raises:
        UsageError: there is no such model, or it has nothing that the policy names.
        ArtefactError: the folder holds no complete model.
    """
    path = folder_meant(model)
    source = None
    if path is not None:
        folder = bundle.find(path)
        beside = folder.parent / bundle.RECIPE_OF_RUN
        if mode is None and freeze is None and beside.is_file() and folder.name == bundle.FOLDER_IN_RUN:
            source = beside
        elif mode is None and freeze is None:
            mode = bundle.read_config(folder)["cnn_tl"].get("mode")
    if freeze is not None and mode is None:
        mode = "finetune"
    chosen = recipes.load(source, (), {"mode": mode, "model.freeze": _policy(freeze)})
    require_torch("the table of a network's layers")
    from cnn_tl.anatomy.inspected_network import from_bundle, from_timm
    from cnn_tl.anatomy.table import Training

    training = Training(chosen.mode, chosen.model.freeze, "head" if chosen.mode in ("lp-ft", "auto") else None)
    return (from_timm(model, image_size) if path is None else from_bundle(path, image_size)), training


def folder_meant(model: str) -> Path | None:
    """Return the folder that is meant, if any: a bare name is a model, unless it is also a run or a bundle here."""
    path = Path(model)
    if os.sep in model or path.suffix == ".onnx":
        return path
    try:
        inside = ("config.json", "model/config.json", "recipe.yaml")
        return path if any((path / name).is_file() for name in inside) else None
    except (OSError, ValueError):
        return None


def _policy(text: str | Sequence[str] | None) -> str | list[str] | None:
    """Return a policy as the recipe has it: the name of a policy, else a list of patterns, separated by commas."""
    if text is None or (isinstance(text, str) and re.fullmatch(FREEZE_PATTERN, text)):
        return text
    return [part.strip() for part in text.split(",")] if isinstance(text, str) else list(text)
