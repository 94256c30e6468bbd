"""The heat map of single images: Grad-CAM where the network has maps, without torch if possible; else occlusion."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.device import DeviceName
from cnn_tl.data.loader import Pixels
from cnn_tl.explaining import faithfulness
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.inference.classifier import Classifier
from cnn_tl.inference.loading import is_onnx
from cnn_tl.networks import bundle

HeatMap = Callable[[Pixels, int], NDArray[np.floating]]
"""From pixels uint8 [H, W, 3] and the index of a class to the evidence for it by place, [H, W].

Several threads may call it at once. `heat_maps.caveat` says when not to trust it.
"""


def load(source: Path, classifier: Classifier, device: DeviceName) -> tuple[str, HeatMap]:
    """Return the name of the method and its function, which loads the model a second time for Grad-CAM.

    In onnxruntime Grad-CAM takes one pass through the network and occlusion about a hundred.

    Args:
        source: what the classifier was loaded from, on the same device.

    Raises:
        ArtefactError: the model is damaged.
    """
    if is_onnx(source):
        return _occlusion(classifier)
    return _from_graph(source, classifier) if isinstance(classifier.engine, HeadedEngine) else _in_torch(source, device)


def _occlusion(classifier: Classifier) -> tuple[str, HeatMap]:
    return "occlusion", lambda pixels, index: heat_maps.occlusion_map_of_pixels(
        classifier.logits, pixels, index, classifier.preprocessing
    )


def _from_graph(source: Path, classifier: Classifier) -> tuple[str, HeatMap]:
    from cnn_tl.explaining.methods.linear_gradcam import LinearGradCam

    gradcam = LinearGradCam.of(bundle.read(source))
    if gradcam is None:
        return _occlusion(classifier)
    return "gradcam", lambda pixels, index: faithfulness.enlarge(gradcam(pixels, index), *pixels.shape[:2])


def _in_torch(source: Path, device: DeviceName) -> tuple[str, HeatMap]:
    from cnn_tl.core.errors import UsageError
    from cnn_tl.explaining import model as models
    from cnn_tl.explaining import target_layers

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
