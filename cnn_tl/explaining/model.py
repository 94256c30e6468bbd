"""A trained model whose predictions are explained: with gradients, on one device."""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.core.device import DeviceName, Precision, autocast, inference_precision, pick_device
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import bundle
from cnn_tl.networks.backbone import classifier_in_fp32, place, to_input

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
    """

    name: str
    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    device: torch.device
    precision: Precision = "fp32"

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
    return ExplainedModel(str(name), model, trained.classes, trained.preprocessing, chosen, precision)


def log_odds(logits_NK: Tensor, index: int) -> Tensor:
    """Return log(p / (1 - p)) of a class, [N], which unlike p still changes where the model is almost certain."""
    others: Any = torch.cat([logits_NK[:, :index], logits_NK[:, index + 1 :]], dim=1)
    score_N: Tensor = logits_NK[:, index] - torch.logsumexp(others, dim=1)
    return score_N


def _few(names: tuple[str, ...]) -> str:
    shown = ", ".join(printable(name) for name in names[:8])
    return f"{shown}, ... ({len(names):,} in all)" if len(names) > 8 else shown
