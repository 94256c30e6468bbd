"""Cache keys: what determines a feature, or a cached image.

The key of a row is the image's content and the view of it. The facts of a space are everything else that changes the
numbers: the weights and the versions of the code, the split point, the precision, and how an image becomes pixels.
Paths, runs and times do not matter.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from importlib.metadata import version
from typing import Any

from cnn_tl.core.cpu import processor
from cnn_tl.core.device import Precision
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.views.augment import Augmentation
from cnn_tl.data.views.image_source import FILTER as SOURCE_FILTER
from cnn_tl.networks.info import NetworkInfo

PLAIN = 0
"""The number of the view without augmentation; the others are augmented."""

FEATURES = "features"
"""The split point just before the classifier."""


def row_key(
    image_sha256: str, view: int, seed: int, augmentation: Augmentation | None, source_side: int | None = None
) -> bytes:
    """Return the key of one view of one image, 32 bytes.

    Args:
        view: `PLAIN`, or the number of an augmented view.
        seed, augmentation: determine the augmented views; the plain one does not depend on them.
        source_side: of the source of views (data/views/image_source.py); None: from the whole image.
    """
    if view == PLAIN:
        return bytes.fromhex(image_sha256)
    drawn = json.dumps(
        [image_sha256, view, seed, _chosen(augmentation) if augmentation else None]
        + ([] if source_side is None else [f"source {source_side} {SOURCE_FILTER}"])
    )
    return hashlib.sha256(drawn.encode()).digest()


def view_seed(image_sha256: str, view: int, seed: int) -> int:
    """Return the seed of an augmented view; it depends on the image's content, not on its path."""
    return seed_of(seed, "view", view, image_sha256)


def _chosen(augmentation: Augmentation) -> dict[str, Any]:
    """Return the settings that are not at their default, so that a new setting does not change the keys of older views.

    Settings without a default always count.
    """
    values = {field.name: (getattr(augmentation, field.name), field.default) for field in fields(augmentation)}
    always = ("magnitude",) if augmentation.ops else ()  # one of 0 is a choice, where there are operations
    return {name: value for name, (value, default) in values.items() if value != default or name in always}


def space_facts(
    network: NetworkInfo,
    *,
    precision: Precision,
    device: str,
    hardware: str | None = None,
    split_point: str = FEATURES,
) -> dict[str, Any]:
    """Return what all rows of one space that torch computes have in common, as plain JSON data.

    Args:
        device: "cpu", "cuda" or "mps"; they round differently.
        hardware: the device's name, for the same reason; by default the processor's.
        split_point: `FEATURES`, or the name of the first module of the part that trains.
    """
    return {
        "model": network.architecture,
        "arguments": network.arguments,
        "backbone_sha256": network.backbone_sha256,
        "boundary": split_point,
        "precision": precision,
        "device": device,
        "hardware": processor() if hardware is None else hardware,
        "preprocessing": _pixels(network.preprocessing),
        "timm": network.timm,
        "torch": version("torch"),
        "pillow": version("pillow"),
    }


def onnx_facts(network: NetworkInfo, graph: bytes) -> dict[str, Any]:
    """Return what all rows of one space that onnxruntime computes on a CPU have in common, as plain JSON data.

    Args:
        graph: of the backbone.
    """
    return {
        "model": network.architecture,
        "backbone_sha256": network.backbone_sha256,
        "boundary": FEATURES,
        "engine": f"onnxruntime {version('onnxruntime')}",
        "graph": hashlib.sha256(graph).hexdigest(),
        "device": "cpu",
        "hardware": processor(),
        "preprocessing": _pixels(network.preprocessing),
        "pillow": version("pillow"),
    }


def source_facts(side: int, row_side: int) -> dict[str, Any]:
    """Return what cached sources of one row size share (data/views/image_source.py); the image is a row's key."""
    # "pictures" must stay: another key would be another cache
    facts = {"pictures": "sources", "side": side, "filter": SOURCE_FILTER, "row_side": row_side}
    return facts | {"pillow": version("pillow")}


def plain_facts(spec: Preprocessing) -> dict[str, Any]:
    """Return what cached plain views (those of evaluation) share; the image is a row's key."""
    return {"pictures": "plain", "preprocessing": _pixels(spec), "pillow": version("pillow")}


def _pixels(spec: Preprocessing) -> dict[str, Any]:
    """Return what determines the pixels, and the numbers that the network gets for them."""
    pixels = spec.to_dict()
    for limit in ("max_pixels", "min_side"):  # they only refuse images
        del pixels[limit]
    return pixels
