"""Outputs of the network for images without augmentation, in evaluation mode, exactly as `predict` computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.core.device import inference_precision
from cnn_tl.data.loader import Batch, in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.cuda_batch_size import cuda_batch_size
from cnn_tl.features.engine import DeviceBatch, Engine
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.features.onnx_engine import OnnxEngine
from cnn_tl.features.stream import Runs, stream
from cnn_tl.networks.backbone import classifier_in_fp32
from cnn_tl.networks.head_forward import Forward, linear
from cnn_tl.networks.trained import as_linear, split_at_classifier
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.backbone_graph import graph_of_loop
from cnn_tl.training.dataset import Dataset, refuse_failures
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.step.gradients import memory_for, or_the_cpu

AT_ONCE = 32
"""Maximum images in one forward pass, except on CUDA: a training step may have many more than fit into memory."""

Read = Callable[[Sequence[Sequence[ImageRecord]]], Iterator[Batch[ImageRecord] | DeviceBatch[ImageRecord]]]
"""Groups of images -> their pixels, in host memory or on the device."""


def outputs(
    dataset: Dataset[LoopRecipe],
    network: LazyNetwork,
    model: nn.Module,
    images: Sequence[ImageRecord],
    task: str,
    read: Read | None = None,
    engine: Runs | None = None,
) -> Tensor:
    """Return the outputs of the model for images, float32 [N, D], on the CPU, in every process of the run.

    If memory runs out, the engine goes on with half as many images at once.

    Args:
        network: gives the preprocessing and the device.
        model: in evaluation mode: the network's model, its moving average, or the part without the classifier.
        task: name of the task, for progress and errors.
        read: reads groups of images; by default as `predict` does.
        engine: computes the outputs instead of the model, without using its device.

    Raises (in all processes):
        DataError: an image changed since the run began.
        ResourceError: not even one image fits into memory.
        Stopped: a signal came.
    """
    run, world = dataset.run, dataset.run.world
    spec, device = network.info.preprocessing, network.device
    at_once = cuda_batch_size(spec) if device.type == "cuda" else min(run.batch_size, AT_ONCE)
    groups = in_groups(images, at_once)  # the same for any number of processes
    mine, rows = world.strided(groups), []
    precision = inference_precision(device, run.recipe.run.precision)
    engine = engine or Engine(model, spec, device, precision)
    exact = classifier_in_fp32(model) if precision == "bf16" else nullcontext()
    progress = run.observer.task(task, sum(map(len, mine)))
    memory = memory_for(task, f"use a smaller --image-size or --model{or_the_cpu(device)}")
    with progress, world.together(), memory, exact:
        for batch, outputs_ND in stream(engine, (read or dataset.read_plain)(mine)):
            if isinstance(batch, Batch):
                refuse_failures(batch)
            rows.append(torch.from_numpy(outputs_ND))
            run.observer.advance(len(batch.items))
    parts = world.gather(rows)
    return torch.cat([parts[number % world.size][number // world.size] for number in range(len(groups))])


def onnx_engine(
    dataset: Dataset[LoopRecipe], network: LazyNetwork, model: nn.Module, beside: Forward | None = None
) -> HeadedEngine | None:
    """Return the engine with which `predict` runs these weights on a CPU; None: it uses torch.

    Args:
        model: the network's model or its moving average, whose weights must not change while the engine is used.
        beside: see `HeadedEngine`.
    """
    graph, about = graph_of_loop(dataset, network), network.info
    if graph is None:
        return None
    own = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    backbone, classifier = split_at_classifier(own, about.classifier)
    head = as_linear(classifier)
    embedder = OnnxEngine(graph, backbone, about.preprocessing)
    return HeadedEngine(embedder, linear(head["weight"], head["bias"]), beside)


def scores(logits_NK: Tensor, labels_N: NDArray[np.int64]) -> dict[str, float]:
    """Return the loss and the accuracy of validation logits, by their keys in a row of metrics."""
    labels = torch.from_numpy(labels_N)
    right = int((logits_NK.argmax(1) == labels).sum())
    return {"val_loss": float(F.cross_entropy(logits_NK, labels)), "val_accuracy": right / len(labels)}
