"""The losses of the last steps, read some steps later: to read one at once would make a GPU wait for the next step."""

from __future__ import annotations

import math
from collections import deque

import torch
from torch import Tensor

from cnn_tl.core.errors import DivergedError
from cnn_tl.training.checkpoints.train_state import Progress

AHEAD = 8
"""Steps that a GPU may be behind the thread that launches them; more would only delay a stop."""


class PendingLosses:
    """Counts the losses of steps in `progress` once the device has computed them.

    Nothing may be saved before `read(wait=True)` has found all of them finite: the weights may be those of later steps.
    """

    def __init__(self, device: torch.device, progress: Progress) -> None:
        self._device, self._progress = device, progress
        self._pending: deque[tuple[int, Tensor, int, torch.cuda.Event | None]] = deque()

    def add(self, values: Tensor, images: int) -> None:
        """Add what `Update` returned for the last step, [1 + A + 1], and the number of its images."""
        copied = None
        if self._device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(self._device))
        self._pending.append((self._progress.step, values, images, copied))

    def read(self, *, wait: bool = False) -> None:
        """Count the losses that have arrived since the last call.

        Args:
            wait: for those of all steps; otherwise only for steps more than `AHEAD` ago.

        Raises:
            DivergedError: a loss or a gradient is not finite; the message names the step.
        """
        while self._pending:
            step, values, images, copied = self._pending[0]
            if copied is not None:
                if not (wait or len(self._pending) > AHEAD or copied.query()):  # type: ignore[no-untyped-call]
                    return
                copied.synchronize()
            self._pending.popleft()
            loss_sum, *aux_sums, norm = values.tolist()
            if not (math.isfinite(norm) and math.isfinite(loss_sum)):
                raise DivergedError(
                    f"training diverged at step {step}: loss {loss_sum / images:.4g}, gradient norm {norm:.4g}; "
                    f"{self._progress.advice}"
                )
            self._progress.add_losses(loss_sum, aux_sums, images)
