"""A trained model that gives logits, which is all that occlusion and the faithfulness of a heat map need: no torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Pixels
from cnn_tl.data.views.transforms import normalise
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.networks import bundle

Inputs = NDArray[np.float32]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class AnsweringModel:
    """A trained model from normalised images, float32 [N, 3, H, W], to logits, float32 [N, K].

    Attributes:
        name: the architecture.
        classes: the class names, in the order of the logits.
        logits: computed in float32. predicted: as `predict` computes them on the same device.
    """

    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    logits: Callable[[Inputs], Logits]
    predicted: Callable[[Inputs], Logits]

    @classmethod
    def of(cls, stored: bundle.Stored) -> AnsweringModel:
        """Return a bundle that has a graph, in onnxruntime on the CPU.

        Raises:
            ArtefactError: graph, tensors and classes do not fit each other.
        """
        logits = HeadedEngine.of(stored).of_inputs
        return cls(stored.architecture, stored.classes, stored.preprocessing, logits, logits)

    def to_input(self, pixels_HWC: Pixels) -> Inputs:
        """Return one image as input of the network, [1, 3, H, W]; 0 is the mean of the preprocessing."""
        return normalise(pixels_HWC[None], self.preprocessing)

    def grey_input(self) -> Inputs:
        """Return an image without information, [1, 3, H, W]: the mean of the preprocessing everywhere."""
        return np.zeros((1, 3, self.preprocessing.height, self.preprocessing.width), np.float32)

    def class_index(self, name: str) -> int:
        """Return the index of a class among the logits.

        Raises:
            UsageError: the model has no such class.
        """
        if name not in self.classes:
            near = difflib.get_close_matches(name, self.classes, n=1, cutoff=0.5)
            hint = f"did you mean {printable(near[0])}?" if near else f"it knows {_few(self.classes)}"
            raise UsageError(f"the model has no class {printable(name)}; {hint}")
        return self.classes.index(name)


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(printable(name) for name in names[:8])
    return f"{shown}, ... ({len(names):,} in all)" if len(names) > 8 else shown
