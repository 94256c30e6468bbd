"""The graph of a run's backbone, with which onnxruntime computes features on a CPU.

A default backbone ships with its graph. For another one torch makes it once on a machine. On some images of the run it
is compared with torch's own network; if it differs, or torch is faster, torch computes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import fp32_switches_restored
from cnn_tl.core.errors import ArtefactError, CnnTlError
from cnn_tl.features import devices
from cnn_tl.features.onnx_engine import OnnxEngine
from cnn_tl.features.stream import Outputs, Pixels
from cnn_tl.networks import info
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork

if TYPE_CHECKING:
    from cnn_tl.networks.backbone import Network

LARGEST_DIFFERENCE = 1e-4
"""Between features of onnxruntime and torch, relative to the largest feature."""

CLEARLY = 0.8
"""torch computes on a CPU if it takes less than this share of onnxruntime's time."""

MOST_IMAGES = 4

REPETITIONS, SECONDS_OF_REPEATING = 8, 2.0
"""How often the speeds are measured again, in turn, before torch counts as faster: the answer is kept for good, and on
a busy machine one pass may take several times as long as another."""


def find_graph(run: Run, dataset: Dataset, network: LazyNetwork) -> None:
    """Find the graph of the run's backbone, or why there is none, for `network.remembered`.

    It is a known one, or torch makes it now, and it is kept for later runs. In a run of several processes the first
    one decides: their caches may differ.
    """

    def find() -> tuple[bytes | None, str | None]:
        known = network.remembered
        is_known = known.graph is not None or known.why_torch is not None
        return (known.graph, known.why_torch) if is_known else _made(run, dataset, network)

    if network.has_agreed_graph:
        return
    graph, why_torch = run.world.first(find)
    network.remembered = replace(network.remembered, graph=graph, why_torch=why_torch)
    network.has_agreed_graph = True


def graph_of_loop(dataset: Dataset[LoopRecipe], network: LazyNetwork) -> bytes | None:
    """Return the graph with which a training loop on a CPU computes features and validates; None: torch does."""
    if network.device.type != "cpu" or not network.info.num_features:
        return None
    find_graph(dataset.run, dataset, network)
    return network.remembered.graph


def _made(run: Run, dataset: Dataset, network: LazyNetwork) -> tuple[bytes | None, str | None]:
    from cnn_tl.networks.graph.trace import NoGraphError
    from cnn_tl.training.step.gradients import memory_for

    built, started = network.build(), time.monotonic()
    task = run.observer.task("preparing the backbone for onnxruntime, once on this machine", None)
    with task, memory_for("comparing torch with onnxruntime", "use a smaller --image-size or --model"):
        graph, why_torch = None, None
        try:
            graph = trace(built)
            why_torch = _why_not(built, graph, _images(dataset))
        except (NoGraphError, ArtefactError) as error:
            why_torch = f"onnxruntime cannot run this backbone: {error}"
    graph = None if why_torch else graph
    built.loading_seconds += time.monotonic() - started
    if run.writes and run.recipe.features.cache:
        with contextlib.suppress(CnnTlError, OSError):  # it is only made again
            info.remember_graph(network.cache_folder, graph, why_torch)
    return graph, why_torch


def trace(network: Network) -> bytes:
    """Return the graph of a network's backbone; see `trace.graph_of`."""
    from cnn_tl.networks.graph.trace import graph_of

    return graph_of(network.model, network.preprocessing)


def _images(dataset: Dataset) -> Pixels:
    """Return the pixels of some training images; noise if none can be read."""
    found: list[Pixels] = []
    for image in dataset.manifest.of("train")[: 2 * MOST_IMAGES]:
        if len(found) < min(MOST_IMAGES, default_workers()):
            try:
                found.append(dataset.evaluation_pixels(image))
            except CnnTlError:  # reported when the images are read for their features
                continue
    return np.stack(found) if found else devices.noise(dataset.preprocessing, 2)


def _why_not(built: Network, content: bytes, pixels: Pixels) -> str | None:
    """Compare features and speed with torch on these images; return why torch is to compute, or None."""
    import torch

    from cnn_tl.features.embedding import embedder
    from cnn_tl.networks.backbone import backbone_tensors

    ours = OnnxEngine(content, backbone_tensors(built.model), built.preprocessing)
    with fp32_switches_restored(), embedder(built, torch.device("cpu"), "fp32") as theirs:
        expected, torch_seconds = _timed(theirs.outputs, pixels)
        try:
            found, seconds = _timed(ours.outputs, pixels)
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            return f"onnxruntime cannot run this backbone: {' '.join(str(error).split())[:200]}"
        began = time.perf_counter()
        for _ in range(REPETITIONS):
            if torch_seconds >= CLEARLY * seconds or time.perf_counter() - began > SECONDS_OF_REPEATING:
                break
            torch_seconds = min(torch_seconds, _seconds(theirs.outputs, pixels))
            seconds = min(seconds, _seconds(ours.outputs, pixels))
    if found.shape != expected.shape:
        return f"onnxruntime gives features of shape {[*found.shape]} for {[*expected.shape]}"
    difference = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))
    if not difference <= LARGEST_DIFFERENCE:
        return f"onnxruntime's features differ by {difference:.1g} of the largest"
    if torch_seconds < CLEARLY * seconds:
        return f"torch is {seconds / torch_seconds:.1f} times as fast as onnxruntime here"
    return None


def _timed(outputs: Callable[[Pixels], Outputs], pixels: Pixels) -> tuple[Outputs, float]:
    """Return the outputs, and the seconds of the second pass: the first one chooses kernels."""
    found = outputs(pixels)
    return found, _seconds(outputs, pixels)


def _seconds(outputs: Callable[[Pixels], Outputs], pixels: Pixels) -> float:
    started = time.perf_counter()
    outputs(pixels)
    return time.perf_counter() - started
