"""The logits of the validation pictures, float32, exactly as predict computes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnn_tl.networks.backbone import to_input
from cnn_tl.training.feed import refuse_failures
from cnn_tl.training.session import Session, in_groups
from cnn_tl.training.step import memory_for

AT_ONCE = 32
"""Pictures that pass the network together: a training step may have many more than find room."""


def validation_logits(session: Session, model: nn.Module, *, at_most: int | None = None) -> Tensor:
    """Return the logits [N, K] of the validation part, float32, on the CPU.

    Args:
        model: in evaluation mode. at_most: what is known to find room in memory, in pictures.

    Raises (in all processes of the run):
        DataError: a picture changed since the run began.
        ResourceError: memory does not suffice.
        Stopped: a signal came.
    """
    world, size = session.world, min(session.batch_size, AT_ONCE, at_most or AT_ONCE)
    groups = in_groups(session.manifest.of("val"), size)  # whole ones, so that their number changes no bit
    mine, logits = world.every(groups), []
    task = session.observer.task("validation", sum(map(len, mine)))
    memory = memory_for("validation", "set a smaller train.micro_batch")
    with task, torch.inference_mode(), world.together(), memory:
        for batch in session.read(mine, session.evaluation_pixels):
            refuse_failures(batch)
            x_NCHW = to_input(batch.pixels, session.network.preprocessing, session.device)
            logits.append(model(x_NCHW).float().cpu())
            session.observer.advance(len(batch.items))
    parts = world.gather(logits)
    return torch.cat([parts[number % world.size][number // world.size] for number in range(len(groups))])
