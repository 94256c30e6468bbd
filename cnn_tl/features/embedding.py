"""The frozen part of a network as an engine: batches of pixels in, features out, as fast as the device allows.

The model is in evaluation mode, so an image's features do not depend on the other images of its batch. But kernels are
chosen by the size of the batch, which affects the last bits. So on a CPU all batches are padded to the same size, and
features computed later or elsewhere are the same to the last bit. On a GPU the last bits are not guaranteed.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from cnn_tl.core.device import Precision, fp32_switches_restored
from cnn_tl.features.engine import Engine
from cnn_tl.features.loading_engine import LoadingEngine
from cnn_tl.networks.backbone import Network, keep_without_classifier, place, without_classifier


@contextmanager
def embedder(
    network: Network, device: torch.device, precision: Precision, *, compiled: bool = False, batch_size: int
) -> Iterator[Engine]:
    """Yield an engine whose outputs are features; inside the block the network has no classifier.

    Args:
        batch_size: of the largest batch, to which all are padded on a CPU, and where the network is compiled.
    """
    with ExitStack() as stack:
        stack.enter_context(without_classifier(network.model))
        if compiled:
            stack.enter_context(quiet_compiler())
        model: nn.Module = place(network.model, device).eval()
        if compiled:
            # freezing folds the parameters into the compiled code: they never change here
            model = torch.compile(model, options={"freezing": True})  # type: ignore[assignment]
        fixed_size = batch_size if compiled or device.type == "cpu" else None
        yield Engine(model, network.preprocessing, device, precision, fixed_size=fixed_size, compiled=compiled)


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


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Hide torch.compile's messages about this machine's toolchain from the user."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch._dynamo", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
