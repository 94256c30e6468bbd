"""The frozen part of a network as an engine in torch: pixels in, features out.

A GPU computes so, and a CPU where onnxruntime cannot run the network (`onnx_engine`). The model is in evaluation mode,
so an image's features do not depend on the other images of its batch, on a CPU to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cnn_tl.core.device import Precision, fp32_switches_restored
from cnn_tl.features.engine import Engine
from cnn_tl.features.loading_engine import LoadingEngine
from cnn_tl.networks.backbone import Network, keep_without_classifier, place, without_classifier


@contextmanager
def embedder(network: Network, device: torch.device, precision: Precision) -> Iterator[Engine]:
    """Yield an engine whose outputs are features; inside the block the network has no classifier."""
    with without_classifier(network.model):
        model = place(network.model, device).eval()
        yield Engine(model, network.preprocessing, device, precision, alone=device.type == "cpu")


def prepared_embedder(network: Network, device: torch.device, precision: Precision, batch_size: int) -> LoadingEngine:
    """Return an engine whose outputs are features, on a copy of the network, that a thread gets ready for CUDA.

    Meanwhile the network itself, on the CPU, can be described and stored.
    """
    copied = copy.deepcopy(network.model)

    def load() -> Engine:
        with fp32_switches_restored():
            keep_without_classifier(copied)
            engine = Engine(place(copied, device).eval(), network.preprocessing, device, precision)
        engine.warm_up(batch_size)
        return engine

    return LoadingEngine(load)
