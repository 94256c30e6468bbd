"""A trained model in onnxruntime and numpy: the engine of its backbone under its head."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.distance import FeatureDistance
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.features.onnx_engine import OnnxEngine
from cnn_tl.features.stream import Outputs, Pixels
from cnn_tl.networks.bundle import Stored
from cnn_tl.networks.head_forward import Forward, forward_of


class HeadedEngine:
    """An engine whose outputs are logits, and columns beside them, if any; they depend on that image alone.

    Args:
        beside: from features [N, D] to the columns, [N, E].

    Attributes:
        is_asynchronous: False: `start` returns when the outputs are computed.
        backbone: the engine below the head.
    """

    is_asynchronous = False

    def __init__(self, backbone: OnnxEngine, head: Forward, beside: Forward | None = None) -> None:
        self.backbone, self._head, self._beside = backbone, head, beside

    @classmethod
    def of(cls, stored: Stored, *, with_distance: bool = False) -> HeadedEngine:
        """Return the engine of a bundle that has a graph.

        Args:
            with_distance: add the distance to the logits, if the bundle's evidence measures it.

        Raises:
            ArtefactError: graph, tensors and classes do not fit each other.
        """
        assert stored.graph is not None
        try:
            backbone = OnnxEngine(stored.graph, stored.backbone, stored.preprocessing)
        except ArtefactError as error:
            raise ArtefactError(f"{printable(stored.path)}: {error}; train or export it again") from error
        try:
            head = forward_of(stored.head, stored.classifier_tensors, len(stored.classes))
            head(np.zeros((1, backbone.num_features), np.float32))
            beside = _column_of(stored.distance) if with_distance and stored.distance is not None else None
            if beside is not None:
                beside(np.zeros((1, backbone.num_features), np.float32))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtefactError(
                f"the weights in {printable(stored.path)} do not fit {printable(stored.architecture)} with "
                f"{len(stored.classes)} classes: {error}"
            ) from error
        return cls(backbone, head, beside)

    @property
    def seconds(self) -> float:
        """Time spent in the network."""
        return self.backbone.seconds

    def start(self, pixels: Pixels) -> Outputs:
        """Return the outputs, float32 [N, K] or [N, K + 1], of uint8 pixels [N, H, W, 3]."""
        return self._outputs(self.backbone.start(pixels))

    def of_inputs(self, x_NCHW: NDArray[np.float32]) -> Outputs:
        """Return the outputs of normalised images, float32 [N, 3, H, W]."""
        return self._outputs(self.backbone.of_inputs(x_NCHW))

    def finish(self, pending: Outputs) -> Outputs:
        """Return what `start` has returned."""
        return pending

    def outputs(self, pixels: Pixels) -> Outputs:
        """Return the outputs, float32 [N, K] or [N, K + 1], of uint8 pixels [N, H, W, 3]."""
        return self.start(pixels)

    def warm_up(self, count: int) -> None:
        """Do nothing: onnxruntime is ready."""

    def _outputs(self, features_ND: NDArray[np.float32]) -> Outputs:
        logits_NK = self._head(features_ND)
        return logits_NK if self._beside is None else np.concatenate([logits_NK, self._beside(features_ND)], 1)


def _column_of(distance: FeatureDistance) -> Forward:
    return lambda features_ND: distance(features_ND)[:, None]
