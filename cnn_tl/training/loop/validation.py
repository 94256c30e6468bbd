"""What the network answers to images as they are, in float32 and evaluation mode: exactly what predict computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_tl.data.loader import in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.networks.backbone import to_input
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Pixels, Session
from cnn_tl.training.loop.batches import refuse_failures
from cnn_tl.training.step.gradients import is_out_of_memory, memory_for

AT_ONCE = 32
"""Images that pass the network together: a training step may have many more than find room."""


def outputs(
    session: Session[LoopRecipe],
    model: nn.Module,
    images: Sequence[ImageRecord],
    task: str,
    pixels_of: Callable[[ImageRecord], Pixels] | None = None,
) -> Tensor:
    """Return what the model gives for images, float32 [N, D], on the CPU, to every process of the run.

    Args:
        model: in evaluation mode. task: what it is for, in a word. pixels_of: by default as predict reads an image.

    Raises (in all processes):
        DataError: an image changed since the run began.
        ResourceError: not even one image finds room in memory.
        Stopped: a signal came.
    """
    world = session.world
    groups = in_groups(images, min(session.batch_size, AT_ONCE))  # whole: the number of processes changes no bit
    mine, rows = world.strided(groups), []
    under_way = session.observer.task(task, sum(map(len, mine)))
    memory = memory_for(task, "use a smaller --image-size or --model, or --device cpu")
    with under_way, torch.inference_mode(), world.together(), memory:
        for batch in session.read(mine, pixels_of or session.evaluation_pixels):
            refuse_failures(batch)
            x_NCHW = to_input(batch.pixels, session.network.preprocessing, session.device)
            rows.append(_in_halves(model, x_NCHW).flatten(1).float().cpu())
            session.observer.advance(len(batch.items))
    parts = world.gather(rows)
    return torch.cat([parts[number % world.size][number // world.size] for number in range(len(groups))])


def scores(session: Session[LoopRecipe], logits_NK: Tensor) -> dict[str, float]:
    """Return the loss and the accuracy that the logits of the validation images have, as in a row of metrics."""
    labels_N = torch.from_numpy(session.manifest.labels("val"))
    right = int((logits_NK.argmax(1) == labels_N).sum())
    return {"val_loss": float(F.cross_entropy(logits_NK, labels_N)), "val_accuracy": right / len(labels_N)}


def _in_halves(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    """Send images through the model; where memory runs out, in two halves one after the other, and so on."""
    try:
        whole: Tensor = model(x_NCHW)
        return whole
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(x_NCHW) == 1:
            raise
    return torch.cat([_in_halves(model, half) for half in x_NCHW.chunk(2)])
