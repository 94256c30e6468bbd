"""The tiny network and the graph of its backbone, traced once in a process: that takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import tiny_network
import torch
from torch import nn

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks.backbone import backbone_tensors, normalised, without_classifier
from cnn_tl.networks.graph import trace


@dataclass(frozen=True)
class Traced:
    """A model on the CPU in evaluation mode, and the graph and the tensors of its backbone."""

    model: nn.Module
    spec: Preprocessing
    graph: bytes
    tensors: dict[str, np.ndarray]

    def pixels(self, count: int) -> np.ndarray:
        """Return `count` images of noise, uint8 [N, H, W, 3]."""
        shape = (count, self.spec.height, self.spec.width, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def torch_features(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features [N, D] as torch computes them."""
        return torch_features(self.model, self.spec, pixels)


@cache
def tiny() -> Traced:
    """Return the tiny network with random weights and statistics."""
    model = tiny_network.TinyNetwork()
    model.load_state_dict(tiny_network.random_tensors())
    model.eval()
    spec = Preprocessing.from_pretrained_cfg(tiny_network.default_cfgs[tiny_network.NAME].default.to_dict(), None)
    return Traced(model, spec, trace.graph_of(model, spec), backbone_tensors(model))


def torch_features(model: nn.Module, spec: Preprocessing, pixels: np.ndarray) -> np.ndarray:
    """Return the features [N, D] of a model in evaluation mode, each image alone."""
    with torch.inference_mode(), without_classifier(model):
        each = [model(normalised(torch.from_numpy(one[None]), spec)).flatten(1) for one in pixels]
    return torch.cat(each).numpy()
