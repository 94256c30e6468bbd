"""What the network answers to pictures as they are, in float32 and evaluation mode: exactly what predict computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnn_tl.data.manifest import Picture
from cnn_tl.networks.backbone import to_input
from cnn_tl.training.feed import refuse_failures
from cnn_tl.training.session import Session, in_groups
from cnn_tl.training.step import memory_for

AT_ONCE = 32
"""Pictures that pass the network together: a training step may have many more than find room."""


def outputs(
    session: Session, model: nn.Module, pictures: Sequence[Picture], task: str, *, at_most: int | None = None
) -> Tensor:
    """Return what the model gives for pictures, float32 [N, D], on the CPU; of many processes each has a part of them.

    Args:
        model: in evaluation mode. task: what it is for, in a word. at_most: pictures that are known to find room.

    Raises (in all processes of the run):
        DataError: a picture changed since the run began.
        ResourceError: memory does not suffice.
        Stopped: a signal came.
    """
    world, size = session.world, min(session.batch_size, AT_ONCE, at_most or AT_ONCE)
    groups = in_groups(pictures, size)  # whole ones, so that the number of processes changes no bit
    mine, rows = world.every(groups), []
    under_way = session.observer.task(task, sum(map(len, mine)))
    memory = memory_for(task, "set a smaller train.micro_batch")
    with under_way, torch.inference_mode(), world.together(), memory:
        for batch in session.read(mine, session.evaluation_pixels):
            refuse_failures(batch)
            x_NCHW = to_input(batch.pixels, session.network.preprocessing, session.device)
            rows.append(model(x_NCHW).flatten(1).float().cpu())
            session.observer.advance(len(batch.items))
    parts = world.gather(rows)
    return torch.cat([parts[number % world.size][number // world.size] for number in range(len(groups))])
