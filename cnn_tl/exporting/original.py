"""The trained model that an export is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Pixels
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.networks.bundle import Bundle, Stored

Outputs = NDArray[np.float32]
"""Logits [N, K], and in a last column the distances where they are known."""


@dataclass(frozen=True)
class Original:
    """A trained model on the CPU, in float32.

    Attributes:
        name: what it runs in, in words.
        spec: the preprocessing of its images.
        num_classes: K.
        outputs: from pixels, uint8 [N, H, W, 3], to logits [N, K], or [N, K + 1] where the last column is the distance.
    """

    name: str
    spec: Preprocessing
    num_classes: int
    outputs: Callable[[Pixels], Outputs]


def original(trained: Bundle | Stored) -> Original:
    """Return the model of a bundle; one that was read without torch has a graph.

    Raises:
        ArtefactError: graph, tensors and classes do not fit each other.
    """
    return _in_onnxruntime(trained) if isinstance(trained, Stored) else _in_torch(trained)


def _in_onnxruntime(trained: Stored) -> Original:
    engine, name = HeadedEngine.of(trained, with_distance=True), "predict on the CPU: onnxruntime, one image at a time"
    return Original(name, trained.preprocessing, len(trained.classes), engine.outputs)


def _in_torch(trained: Bundle) -> Original:
    import torch

    from cnn_tl.networks.backbone import place, to_input
    from cnn_tl.networks.distance_column import add_distance

    if trained.distance is not None:  # nothing else uses the model from here on
        add_distance(trained.model, trained.distance)
    cpu, spec = torch.device("cpu"), trained.preprocessing
    model = place(trained.model, cpu)

    def outputs(pixels: Pixels) -> Outputs:
        with torch.inference_mode():
            return model(to_input(pixels, spec, cpu)).numpy()  # type: ignore[no-any-return]

    return Original("the model in torch", spec, len(trained.classes), outputs)
