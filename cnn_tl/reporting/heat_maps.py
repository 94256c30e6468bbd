"""Heat maps of some images of a page, as thumbnails, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cnn_tl.core.device import DeviceName


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps by the index of their image.

    Attributes:
        method: "gradcam" or "occlusion"; None without heat maps.
        drawn: WebP or JPEG files. notes: why there are none, or fewer.
    """

    method: str | None = None
    drawn: Mapping[int, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def draw_heat_maps(
    model: Path, images: Mapping[int, tuple[Path, int]], device: DeviceName, deadline: float
) -> HeatMaps:
    """Draw the evidence for a class over each image.

    Args:
        model: a run, a bundle or a .onnx file.
        images: index -> file, and the class whose evidence is shown.
        deadline: by `time.monotonic`.
    """
    if not images or time.monotonic() > deadline:
        return HeatMaps()
    return HeatMaps()
