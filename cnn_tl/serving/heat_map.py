"""The heat map of one image, as PNG: Grad-CAM where the model has gradients, occlusion where it has not."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.device import DeviceName
from cnn_tl.data.loader import Pixels
from cnn_tl.explaining.methods import covering
from cnn_tl.inference.classifier import Classifier, is_onnx

HeatMap = Callable[[Pixels, int], NDArray[np.floating]]
"""From pixels uint8 [H, W, 3] and the index of a class to what speaks for it where, [H, W]."""


def load(source: Path, classifier: Classifier, device: DeviceName) -> tuple[str, HeatMap]:
    """Return the name of the method and the function; a bundle is loaded a second time, to be watched by itself.

    Raises:
        ArtefactError: the model is damaged.
    """
    if is_onnx(source):
        return "occlusion", lambda pixels, index: covering.heat_map(
            classifier.logits, pixels, index, classifier.preprocessing
        )
    return _by_gradients(source, device)


def _by_gradients(source: Path, device: DeviceName) -> tuple[str, HeatMap]:
    from cnn_tl.core.errors import UsageError
    from cnn_tl.explaining import faithfulness, layers
    from cnn_tl.explaining import model as subject
    from cnn_tl.explaining.methods import cam, occlusion

    watched = subject.load(source, device)
    try:
        layer = layers.find(watched.model, watched.blank())
    except UsageError:  # it sees in tokens
        return (
            "occlusion",
            lambda pixels, index: occlusion.heat_map(watched, watched.to_input(pixels), index).cpu().numpy(),
        )
    one_at_a_time = threading.Lock()  # torchcam hooks into the model

    def gradcam(pixels: Pixels, index: int) -> NDArray[np.floating]:
        with one_at_a_time:
            map_hw = cam.heat_map("gradcam", watched, layer, watched.to_input(pixels), index)
        heat_HW: NDArray[np.floating] = faithfulness.enlarge(map_hw, *pixels.shape[:2]).cpu().numpy()
        return heat_HW

    return "gradcam", gradcam


def why_not() -> str | None:
    """Say why no heat map can be drawn here; None if it can."""
    if find_spec("matplotlib") is None:
        return "heat maps need matplotlib, which is missing on the server: pip install matplotlib"
    return None


def drawn(pixels_HWC: Pixels, heat_HW: NDArray[np.floating]) -> bytes:
    """Return the heat over the image, as PNG."""
    from PIL import Image

    from cnn_tl.plots.explanation import heat_over

    stream = io.BytesIO()
    Image.fromarray(heat_over(pixels_HWC, heat_HW)).save(stream, "PNG")
    return stream.getvalue()
