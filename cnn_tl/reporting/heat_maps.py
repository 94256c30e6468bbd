"""Heat maps of some images of a page, as thumbnails, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import BadImageError, CnnTlError, ResourceError
from cnn_tl.core.formatting import counted
from cnn_tl.core.imports import missing_line

MOST = 24
"""Images that get a heat map."""

SECONDS = 15.0
"""The time after which no heat map is begun: occlusion takes a hundred passes of the network for each."""


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps by the index of their image.

    Attributes:
        method: "gradcam" or "occlusion"; None without heat maps.
        drawn: WebP or JPEG files. caveats: why not to trust some of them. notes: why there are none, or fewer.
    """

    method: str | None = None
    drawn: Mapping[int, bytes] = field(default_factory=dict)
    caveats: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def draw_heat_maps(
    model: Path, images: Mapping[int, tuple[Path, int]], device: DeviceName, deadline: float
) -> HeatMaps:
    """Draw the evidence for a class over each image as the network sees it, of at most `MOST` images.

    Args:
        model: a run, a bundle or a .onnx file.
        images: index -> file, and the class whose evidence is shown.
        deadline: by `time.monotonic`.
    """
    if not images or time.monotonic() > deadline:
        return HeatMaps()
    try:
        return _draw(model, dict(list(images.items())[:MOST]), device, min(deadline, time.monotonic() + SECONDS))
    except CnnTlError as error:
        return HeatMaps(notes=(f"without heat maps: {error}",))
    except ImportError as error:  # a light install
        return HeatMaps(notes=(f"without heat maps: {missing_line(error) or error}",))
    except Exception as error:  # noqa: BLE001 - such as a lack of memory; a page is worth having without heat maps
        reason = str(error).partition("\n")[0] or type(error).__name__
        return HeatMaps(notes=(f"without heat maps: {reason}",))


def _draw(model: Path, images: Mapping[int, tuple[Path, int]], device: DeviceName, deadline: float) -> HeatMaps:
    import numpy as np
    from PIL import Image

    from cnn_tl.data.views.transforms import mean_colour, read_pixels
    from cnn_tl.explaining import one_heat_map
    from cnn_tl.explaining.methods import heat_maps
    from cnn_tl.inference.loading import load
    from cnn_tl.pages.thumbnail import thumbnail
    from cnn_tl.plots.explanation import heat_over

    classifier = load(model, device)
    method, heat_map = one_heat_map.load(model, classifier, device)
    drawn: dict[int, bytes] = {}
    caveats: dict[int, str] = {}
    late = 0
    for index, (file, answer) in images.items():
        if time.monotonic() > deadline:
            late += 1
            continue
        try:
            pixels_HWC = read_pixels(file, classifier.preprocessing)
        except (BadImageError, ResourceError):
            continue  # its card says why it cannot be read
        heat_HW = heat_map(pixels_HWC, answer)
        grey_HWC = np.full_like(pixels_HWC, mean_colour(classifier.preprocessing))
        after, before = heat_maps.log_odds(classifier.logits(np.stack([pixels_HWC, grey_HWC])), answer)
        if caveat := heat_maps.caveat(heat_HW, after - before):
            caveats[index] = caveat
        if caveat != heat_maps.EMPTY:
            drawn[index] = thumbnail(Image.fromarray(heat_over(pixels_HWC, heat_HW)))
    notes = (f"without heat maps of {counted(late, 'image')}, for which no time was left",) if late else ()
    return HeatMaps(method if drawn else None, drawn, caveats, notes)
