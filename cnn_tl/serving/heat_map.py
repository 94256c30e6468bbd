"""The heat map of one image, as PNG: Grad-CAM where torch runs the model and it has maps, occlusion otherwise."""

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
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.inference.classifier import Classifier
from cnn_tl.inference.loading import is_onnx

HeatMap = Callable[[Pixels, int], NDArray[np.floating]]
"""From pixels uint8 [H, W, 3] and the index of a class to the evidence for it by place, [H, W]."""


def load(source: Path, classifier: Classifier, device: DeviceName) -> tuple[str, HeatMap]:
    """Return the name of the method and its function; for Grad-CAM the bundle is loaded a second time, with gradients.

    Raises:
        ArtefactError: the model is damaged.
    """
    if is_onnx(source) or isinstance(classifier.engine, HeadedEngine):
        return "occlusion", lambda pixels, index: heat_maps.occlusion_map_of_pixels(
            classifier.logits, pixels, index, classifier.preprocessing
        )
    return _from_bundle(source, device)


def _from_bundle(source: Path, device: DeviceName) -> tuple[str, HeatMap]:
    from cnn_tl.core.errors import UsageError
    from cnn_tl.explaining import faithfulness, target_layers
    from cnn_tl.explaining import model as models

    model = models.load(source, device)
    try:
        layer = target_layers.find(model.network, model.grey_input())
    except UsageError:  # the network works on tokens
        answering = model.answering
        return (
            "occlusion",
            lambda pixels, index: heat_maps.occlusion_map(answering.logits, answering.to_input(pixels), index),
        )
    one_at_a_time = threading.Lock()  # torchcam registers hooks on the model

    def gradcam(pixels: Pixels, index: int) -> NDArray[np.floating]:
        with one_at_a_time:
            map_hw = heat_maps.class_activation_map("gradcam", model, layer, model.to_input(pixels), index)
        return faithfulness.enlarge(map_hw.float().cpu().numpy(), *pixels.shape[:2])

    return "gradcam", gradcam


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
