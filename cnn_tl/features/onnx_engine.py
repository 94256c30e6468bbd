"""The frozen part of a network on a CPU: onnxruntime in float32, one image to a thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.transforms import normalise
from cnn_tl.features.stream import Outputs, Pixels
from cnn_tl.networks.graph.session import INPUT, OUTPUT, checked_ends, open_session


class OnnxEngine:
    """The backbone of a network as an engine: pixels in, features out.

    An image's features do not depend on other images or on the number of threads, see `open_session`. Several threads
    may use one engine.

    Args:
        graph: of the backbone, see `networks.graph`.
        tensors: of the backbone, by name.
        workers: images that are computed at the same time; None: one for each core.

    Attributes:
        num_features: D.
        is_asynchronous: False: `start` returns when the outputs are computed.
        seconds: time spent in the network, of the calling thread.

    Raises:
        ArtefactError: the graph is damaged, or belongs to another model.
    """

    is_asynchronous = False

    def __init__(
        self,
        graph: bytes,
        tensors: Mapping[str, NDArray[Any]],
        spec: Preprocessing,
        *,
        workers: int | None = None,
    ) -> None:
        self._session, self._spec = open_session(graph, tensors), spec
        self.num_features = checked_ends(self._session, spec.height, spec.width)
        self._pool = ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="onnx")
        self.seconds = 0.0

    def start(self, pixels: Pixels) -> Outputs:
        """Return the features, float32 [N, D], of uint8 pixels [N, H, W, 3]; a tensor on the CPU will do, too."""
        array_NHW3 = np.asarray(pixels)
        return self._each(lambda pixels_HW3: self._features(normalise(pixels_HW3[None], self._spec)), array_NHW3)

    def of_inputs(self, x_NCHW: NDArray[np.float32]) -> Outputs:
        """Return the features, float32 [N, D], of normalised images, float32 [N, 3, H, W]."""
        return self._each(lambda x_CHW: self._features(np.ascontiguousarray(x_CHW)[None]), x_NCHW)

    def finish(self, pending: Outputs) -> Outputs:
        """Return what `start` has returned."""
        return pending

    def outputs(self, pixels: Pixels) -> Outputs:
        """Return the features, float32 [N, D], of uint8 pixels [N, H, W, 3]."""
        return self.start(pixels)

    def warm_up(self, count: int) -> None:
        """Do nothing: onnxruntime is ready."""

    def _each(self, features_of: Callable[[NDArray[Any]], Outputs], images: NDArray[Any]) -> Outputs:
        started = time.perf_counter()
        features_1D = list(self._pool.map(features_of, images)) if len(images) > 1 else [features_of(*images)]
        self.seconds += time.perf_counter() - started
        return np.concatenate(features_1D)

    def _features(self, x_1CHW: NDArray[np.float32]) -> Outputs:
        features: Outputs = self._session.run([OUTPUT], {INPUT: x_1CHW})[0]
        return features
