"""Outputs of the network for images without augmentation, in float32 and evaluation mode, exactly as `predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.data.loader import Batch, in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.networks.backbone import to_input
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.dataset import Dataset, Item, Pixels
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.step.gradients import is_out_of_memory, memory_for

AT_ONCE = 32
"""Maximum images in one forward pass: a training step may have many more than fit into memory."""


def outputs(
    dataset: Dataset[LoopRecipe],
    network: LazyNetwork,
    model: nn.Module,
    images: Sequence[ImageRecord],
    task: str,
    pixels_of: Callable[[ImageRecord], Pixels] | None = None,
) -> Tensor:
    """Return the outputs of the model for images, float32 [N, D], on the CPU, in every process of the run.

    Args:
        network: gives the preprocessing and the device.
        model: in evaluation mode: the network's model, its moving average, or the part without the classifier.
        task: name of the task, for progress and errors.
        pixels_of: reads an image; by default as `predict` does.

    Raises (in all processes):
        DataError: an image changed since the run began.
        ResourceError: not even one image fits into memory.
        Stopped: a signal came.
    """
    run, world = dataset.run, dataset.run.world
    groups = in_groups(images, min(run.batch_size, AT_ONCE))  # the same for any number of processes
    mine, rows = world.strided(groups), []
    progress = run.observer.task(task, sum(map(len, mine)))
    memory = memory_for(task, "use a smaller --image-size or --model, or --device cpu")
    with progress, torch.inference_mode(), world.together(), memory:
        for batch in dataset.read(mine, pixels_of or dataset.evaluation_pixels):
            refuse_failures(batch)
            x_NCHW = to_input(batch.pixels, network.info.preprocessing, network.device)
            rows.append(_in_halves(model, x_NCHW).flatten(1).float().cpu())
            run.observer.advance(len(batch.items))
    parts = world.gather(rows)
    return torch.cat([parts[number % world.size][number // world.size] for number in range(len(groups))])


def scores(logits_NK: Tensor, labels_N: NDArray[np.int64]) -> dict[str, float]:
    """Return the loss and the accuracy of validation logits, by their keys in a row of metrics."""
    labels = torch.from_numpy(labels_N)
    right = int((logits_NK.argmax(1) == labels).sum())
    return {"val_loss": float(F.cross_entropy(logits_NK, labels)), "val_accuracy": right / len(labels)}


def refuse_failures(batch: Batch[Item]) -> None:
    """Refuse a batch with an image that could be read when the run began and cannot be read now.

    Raises:
        DataError: the batch has one.
    """
    if batch.failures:
        error: BadImageError = batch.failures[0][1]
        raise DataError(f"{error}; it could be read when the run began, so the data has changed since")


def _in_halves(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Run the model on images; if memory runs out, on each half, recursively."""
    try:
        whole: Tensor = model(x_NCHW)
        return whole
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(x_NCHW) == 1:
            raise
    return torch.cat([_in_halves(model, half) for half in x_NCHW.chunk(2)])
