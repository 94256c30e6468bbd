"""A heat map as PNG."""

from __future__ import annotations

import io
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from cnn_tl.data.loader import Pixels


def why_not() -> str | None:
    """Say why this server cannot draw heat maps; None if it can."""
    if find_spec("matplotlib") is None:
        return "heat maps need matplotlib, which is missing on the server: pip install matplotlib"
    return None


def drawn(pixels_HWC: Pixels, heat_HW: NDArray[np.floating]) -> bytes:
    """Return the heat map over the image, as PNG."""
    from PIL import Image

    from cnn_tl.plots.explanation import heat_over

    stream = io.BytesIO()
    Image.fromarray(heat_over(pixels_HWC, heat_HW)).save(stream, "PNG")
    return stream.getvalue()
