"""A trained model whose predictions are explained: with gradients, on one device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.core.device import DeviceName, Precision, autocast, inference_precision, pick_device
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.explaining.answering import AnsweringModel
from cnn_tl.networks import bundle
from cnn_tl.networks.backbone import classifier_in_fp32, place, to_input
from cnn_tl.networks.bundle import Stored

BATCH = 32
"""Images that go through the model together."""


@dataclass(frozen=True)
class ExplainedModel:
    """A trained model with gradients, and its preprocessing.

    Attributes:
        name: the architecture.
        network: in evaluation mode, float32, on `device`; its parameters need no gradient.
        classes: the class names, in the order of the logits.
        precision: of predictions; explanations of them are computed in float32.
        stored: the same model for onnxruntime; None if torch predicts.
    """

    name: str
    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    device: torch.device
    precision: Precision = "fp32"
    stored: Stored | None = None

    def to_input(self, pixels_HWC: NDArray[np.uint8]) -> Tensor:
        """Return one image as input of the network, [1, 3, H, W]; 0 is the mean of the preprocessing."""
        return to_input(pixels_HWC[None].copy(), self.preprocessing, self.device)  # torch wants writable memory

    def grey_input(self) -> Tensor:
        """Return an image without information, [1, 3, H, W]: the mean of the preprocessing everywhere."""
        return torch.zeros(1, 3, self.preprocessing.height, self.preprocessing.width, device=self.device)

    @torch.no_grad()
    def logits(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits [N, K], computed in batches."""
        fast = torch.channels_last if self.device.type != "mps" else torch.contiguous_format  # as in `place`
        batches = torch.split(x_NCHW, BATCH)
        return torch.cat([self.network(batch.contiguous(memory_format=fast)).float() for batch in batches])

    @torch.no_grad()
    def predicted_logits(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits [N, K] as `predict` computes them on this device."""
        exact = classifier_in_fp32(self.network) if self.precision == "bf16" else nullcontext()
        with exact, autocast(self.device, self.precision):
            return self.logits(x_NCHW)

    @cached_property
    def answering(self) -> AnsweringModel:
        """The same model as functions of arrays: on a CPU in onnxruntime, as `predict` runs it, where that can."""
        if self.stored is not None:
            return AnsweringModel.of(self.stored)
        exact, fast = (partial(self._of_arrays, logits) for logits in (self.logits, self.predicted_logits))
        return AnsweringModel(self.name, self.classes, self.preprocessing, exact, fast)

    def _of_arrays(self, logits: Callable[[Tensor], Tensor], x_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = (x_NCHW[start : start + BATCH] for start in range(0, len(x_NCHW), BATCH))
        return np.concatenate([logits(torch.from_numpy(part).to(self.device)).cpu().numpy() for part in parts])


def load(source: Path, device: DeviceName = "auto") -> ExplainedModel:
    """Load a run folder or a bundle.

    Raises:
        ArtefactError: there is no model, or it is damaged, not written by cnn-tl, or newer than this version.
        ResourceError: the device is not available.
    """
    chosen = pick_device(device)
    trained = bundle.load(source)
    model = place(trained.model, chosen).requires_grad_(False)
    name = bundle.read_config(trained.path)["architecture"]
    precision = inference_precision(chosen, trained.precision)
    stored = bundle.read(source) if chosen.type == "cpu" else None
    stored = None if stored is None or stored.graph is None else stored
    return ExplainedModel(str(name), model, trained.classes, trained.preprocessing, chosen, precision, stored)
