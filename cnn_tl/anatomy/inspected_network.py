"""The network to inspect, on the meta device: any timm model by name, or the one of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from cnn_tl.networks import bundle
from cnn_tl.networks.pretrained import weights


@dataclass(frozen=True)
class Subject:
    """A network to inspect: its name, the model on the meta device, and its input: channels, height, width."""

    name: str
    model: nn.Module
    input: tuple[int, int, int]


def from_timm(name: str, image_size: int | None = None) -> Subject:
    """Build a timm model on the meta device, without downloading weights.

    Raises:
        UsageError: timm has no such model, or it does not accept images of that size.
    """
    source = weights.locate(name, pretrained=False)
    with torch.device("meta"):
        model = weights.create(name, source, image_size=image_size)
    size: tuple[int, int, int] = model.pretrained_cfg["input_size"]  # type: ignore[index,assignment]
    return Subject(name, model, _sized(size, image_size))


def from_bundle(path: Path, image_size: int | None = None) -> Subject:
    """Load the network of a run folder or a bundle, after checking its files.

    Raises:
        ArtefactError: it is missing, damaged, foreign, or newer than this version.
    """
    made = bundle.load(path)
    name = bundle.read_config(made.path)["architecture"]
    spec = made.preprocessing
    return Subject(name, made.model.to("meta"), _sized((3, spec.height, spec.width), image_size))


def _sized(size: Sequence[int], side: int | None) -> tuple[int, int, int]:
    return (size[0], side or size[1], side or size[2])


def multiply_adds(name: str) -> int | None:
    """Count the multiply-adds of a timm model for one image; None for a model that does not run on the meta device."""
    from cnn_tl.anatomy.trace import trace

    subject = from_timm(name)
    channels, height, width = subject.input
    try:
        return sum(run.multiply_adds for run in trace(subject.model, height, width, channels).values())
    except Exception:  # noqa: BLE001 - a few models read values; the list of models leaves a blank for them
        return None
