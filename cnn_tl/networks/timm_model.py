"""Build the timm model that a bundle describes, and describe one in the format of timm's config.json."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import classic, head_modules  # noqa: F401 - registers the classic models with timm


def config_of(model: nn.Module, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return timm's description of a model, in the format of its config.json, without the classes."""
    data_config = {
        "input_size": (3, preprocessing.height, preprocessing.width),
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.json"
        save_config_for_hf(model, str(path), model_config={}, data_config=data_config)
        return json.loads(path.read_text("utf-8"))  # type: ignore[no-any-return]


def create(
    where: str,
    architecture: str,
    arguments: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    head: Mapping[str, Any] | None,
    num_classes: int,
) -> nn.Module:
    """Return a model with these tensors, in evaluation mode.

    Args:
        where: the bundle's folder, for the message.
        arguments: of `timm.create_model`, besides the name and the number of classes.
        head: the `spec` of a classifier that is not one linear layer.

    Raises:
        ArtefactError: timm has no such model, or the tensors do not fit it.
    """
    if not timm.is_model(architecture):
        raise ArtefactError(f"{where} names no timm model: {printable(architecture[:80])}")
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(architecture, pretrained=False, num_classes=num_classes, **arguments)
            if head is not None:
                head_modules.replace_classifier(model, head, state, num_classes)
        model.load_state_dict(state)
    except (RuntimeError, KeyError, TypeError, ValueError, AssertionError) as error:
        first = str(error).strip().splitlines()
        raise ArtefactError(
            f"the weights in {where} do not fit {architecture} with {num_classes} classes: "
            f"{' '.join(line.strip() for line in first[:2])[:300]}"
        ) from error
    return model.eval()
