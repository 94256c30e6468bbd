"""Losses that are read some steps later: all are counted, and a step that diverged is named."""

from __future__ import annotations

import pytest
import torch

from cnn_tl.core.errors import DivergedError
from cnn_tl.training.checkpoints.train_state import Progress
from cnn_tl.training.loop.pending_losses import PendingLosses


def train(device: str, values: list[list[float]]) -> Progress:
    progress = Progress(lr=0.1, computed="fp32 on cpu")
    losses = PendingLosses(torch.device(device), progress)
    for row in values:
        progress.step += 1
        losses.add(torch.tensor(row, device=device), 4)
        losses.read()
    losses.read(wait=True)
    return progress


def check(device: str) -> None:
    progress = train(device, [[1.0, 0.5, 9.0]] * 20)
    assert (progress.step, progress.loss_sum, progress.aux_sums, progress.seen) == (20, 20.0, [10.0], 80)
    for bad in ([float("nan"), 0.5, 1.0], [float("inf"), 0.5, 1.0], [1.0, 0.5, float("nan")]):
        with pytest.raises(DivergedError, match=r"at step 3: .*try a lower --lr than 0\.1$"):
            train(device, [[1.0, 0.5, 9.0]] * 2 + [bad] + [[float("nan")] * 3] * 20)


def test_all_losses_are_counted_and_the_first_bad_step_is_named() -> None:
    check("cpu")


@pytest.mark.gpu
def test_the_same_on_a_gpu_that_is_some_steps_behind() -> None:
    check("cuda")
