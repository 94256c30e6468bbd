"""Grad-CAM without gradients, for networks that end in a global average pool and one linear layer: no torch.

There the gradient of a class with respect to the pooled map is the same at every place: the weight of the class for the
channel, divided by the number of places. So Grad-CAM (Selvaraju et al. 2017, sec. 3 and appendix A) is the class
activation map of Zhou et al. 2016 (sec. 2) without its negative values, and takes a single forward pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Pixels
from cnn_tl.data.views.transforms import normalise
from cnn_tl.networks.bundle import Stored
from cnn_tl.networks.graph.pooled_map import MAP, with_map
from cnn_tl.networks.graph.session import INPUT, OUTPUT, open_session

LAYER = "the map before the global pool"
"""What is explained: the layer that Grad-CAM takes by default in torch, whose name the graph does not hold."""

_TOLERANCE = 1e-4
"""By which the mean of the map may differ from the features, relative to the largest: float32 adds in another order."""


class LinearGradCam:
    """From pixels uint8 [H, W, 3] and the index of a class to its Grad-CAM, float32 [h, w], at least 0.

    Several threads may call it at once.
    """

    def __init__(self, session: Any, spec: Preprocessing, weight_KD: NDArray[np.float32]) -> None:
        self._session, self._spec, self._weight_KD = session, spec, weight_KD

    @classmethod
    def of(cls, stored: Stored) -> LinearGradCam | None:
        """Return that of a bundle; None without a graph, or if the network or its head ends in another way.

        Raises:
            ArtefactError: the graph is damaged, or belongs to another model.
        """
        if stored.graph is None or stored.head is not None:
            return None
        graph = with_map(stored.graph)
        if graph is None:
            return None
        try:
            session = open_session(graph, stored.backbone)
        except ArtefactError:
            open_session(stored.graph, stored.backbone)  # raises if that one is damaged
            return None
        made = cls(session, stored.preprocessing, stored.classifier_tensors["weight"])
        return made if made._averages_its_map() else None

    def __call__(self, pixels_HWC: Pixels, index: int) -> NDArray[np.float32]:
        """Return the evidence for class `index` by place of the map."""
        map_Dhw, _ = self._run(normalise(pixels_HWC[None], self._spec))
        weighted_hw = np.tensordot(self._weight_KD[index], map_Dhw, 1) / map_Dhw[0].size
        return np.maximum(weighted_hw, 0).astype(np.float32)  # type: ignore[no-any-return]

    def _run(self, x_1CHW: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the map [D, h, w] and the features [D] of one image."""
        map_1Dhw, features_1D = self._session.run([MAP, OUTPUT], {INPUT: x_1CHW})
        return map_1Dhw[0], features_1D[0]

    def _averages_its_map(self) -> bool:
        """Say whether the features of an image of noise are the mean over the places of its map, and it has several."""
        shape = (1, 3, self._spec.height, self._spec.width)
        map_Dhw, features_D = self._run(np.random.default_rng(0).standard_normal(shape, np.float32))
        if map_Dhw.ndim != 3 or map_Dhw[:, 0, 0].shape != features_D.shape or min(map_Dhw.shape[1:]) < 2:
            return False
        difference_D = map_Dhw.mean((1, 2), dtype=np.float64) - features_D
        return bool(np.abs(difference_D).max() <= _TOLERANCE * np.abs(features_D).max())
