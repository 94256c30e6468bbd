"""What decides a feature, or a kept image: the keys under which the cache keeps it.

A row's key is the image's content and the view of it. A space's facts are everything else that changes the numbers:
the weights and the code around them, where the network is cut, the number format, how an image becomes pixels. Where a
file lies, which run asked and when do not count.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from importlib.metadata import version
from typing import Any

from cnn_tl.core.device import Precision
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.views.augment import Augmentation
from cnn_tl.data.views.source import FILTER as SOURCE_FILTER
from cnn_tl.features.speed import processor
from cnn_tl.networks.info import NetworkInfo

PLAIN = 0
"""The view that evaluation sees; the others are augmented."""

FEATURES = "features"
"""The boundary just before the classifier."""


def row_key(
    image_sha256: str, view: int, seed: int, augmentation: Augmentation | None, source_side: int | None = None
) -> bytes:
    """Return the 32 bytes that name one view of one image.

    Args:
        view: `PLAIN`, or the number of an augmented view.
        seed, augmentation: what draws the augmented views; the plain one does not depend on them.
        source_side: of the source that views are cropped from (data/views/source.py); None: from the whole image.
    """
    if view == PLAIN:
        return bytes.fromhex(image_sha256)
    drawn = json.dumps(
        [image_sha256, view, seed, _chosen(augmentation) if augmentation else None]
        + ([] if source_side is None else [f"source {source_side} {SOURCE_FILTER}"])
    )
    return hashlib.sha256(drawn.encode()).digest()


def view_seed(image_sha256: str, view: int, seed: int) -> int:
    """Return the seed that draws an augmented view: of the image's content, so that its place does not count."""
    return seed_of(seed, "view", view, image_sha256)


def _chosen(augmentation: Augmentation) -> dict[str, Any]:
    """Return the settings that are not at their default, so that a new one leaves the keys of older views as they are.

    Those without a default always count.
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
    boundary: str = FEATURES,
    compiled: bool = False,
) -> dict[str, Any]:
    """Return what all rows of one space have in common, as plain data for JSON.

    Args:
        device: "cpu", "cuda" or "mps"; they round differently.
        hardware: the device's name, for the same reason; by default the processor's.
        boundary: where the network is cut: `FEATURES`, or the name of the first module of the part that trains.
        compiled: by torch.compile, which rounds differently too.
    """
    return {
        "model": network.architecture,
        "arguments": network.arguments,
        "backbone_sha256": network.backbone_sha256,
        "boundary": boundary,
        "precision": precision + (", compiled" if compiled else ""),
        "device": device,
        "hardware": processor() if hardware is None else hardware,
        "preprocessing": _pixels(network.preprocessing),
        "timm": network.timm,
        "torch": version("torch"),
        "pillow": version("pillow"),
    }


def source_facts(side: int, row_side: int) -> dict[str, Any]:
    """Return what cached sources of one row size share (data/views/source.py); the image is a row's key."""
    # "pictures" stays as it is: another key would be another cache
    facts = {"pictures": "sources", "side": side, "filter": SOURCE_FILTER, "row_side": row_side}
    return facts | {"pillow": version("pillow")}


def plain_facts(spec: Preprocessing) -> dict[str, Any]:
    """Return what kept plain views have in common, which are what evaluation sees; a row's key is the image's."""
    return {"pictures": "plain", "preprocessing": _pixels(spec), "pillow": version("pillow")}


def _pixels(spec: Preprocessing) -> dict[str, Any]:
    """Return what decides the pixels, and the numbers that the network gets for them."""
    pixels = spec.to_dict()
    for limit in ("max_pixels", "min_side"):  # they refuse images, and change none
        del pixels[limit]
    return pixels
