"""Save the state of a training loop in checkpoints, and restore it exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, DivergedError, printable
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.train_state import Progress
from cnn_tl.training.context import Run
from cnn_tl.training.step import optimizer as optim

SAVE_EVERY_SECONDS = 300.0
AGREE_EVERY_STEPS = 16
"""Steps between two checks, with several processes, whether it is time to save: a check needs communication."""


def report_missing_checkpoint(run: Run) -> None:
    """Report that a resumed run has no checkpoint; warn if it had one, because epochs have ended."""
    if not run.is_resumed:
        return
    text = f"there is no checkpoint in {printable(run.folder.checkpoints)}: training begins with the first step"
    if any(row.get("epoch", 0) > 0 for row in run.folder.read_metrics()):
        run.observer.warn(f"{text} again; what had been trained is lost")
    else:
        run.observer.note(text)


class Snapshots:
    """Writes and reads the checkpoints of a loop and the weights of its best epoch.

    Attributes:
        ema: the moving average of the weights, or None.
    """

    def __init__(
        self,
        run: Run,
        progress: Progress,
        model: nn.Module,
        optimizer: Optimizer,
        ema: ModelEmaV3 | None,
        started: float,
    ) -> None:
        """Store references to the state to save; `started` is when the loop began, by `time.monotonic`."""
        self.ema = ema
        self._run, self._progress, self._model, self._optimizer = run, progress, model, optimizer
        self._saved, self._counted = time.monotonic(), started

    @property
    def _best(self) -> Path:
        return self._run.folder.checkpoints / f"{checkpoint.BEST}-{self._progress.best_epoch:05d}"

    def is_due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint, the same in all processes."""
        world = self._run.world
        if not world.is_alone and self._progress.step % AGREE_EVERY_STEPS:
            return False
        return world.first(lambda: time.monotonic() - self._saved > SAVE_EVERY_SECONDS)

    def save(self) -> None:
        """Write the current state.

        Raises:
            DivergedError: the last update made a weight infinite or NaN.
            ResourceError: the disk is full or not writable.
        """
        self._require_finite()
        self.count_seconds()
        tensors = {"model": self._model.state_dict(), "optimizer": optim.state_tensors(self._optimizer)}
        if self.ema:
            tensors["ema"] = self.ema.module.state_dict()
        state = {"progress": asdict(self._progress), "optimizer": optim.state_numbers(self._optimizer)}
        point, progress = checkpoint.Checkpoint(tensors, state), self._progress
        folder = self._run.folder.checkpoints
        self._run.world.first(lambda: checkpoint.save_step(folder, progress.step, progress.epochs, point))
        self._saved = time.monotonic()

    def save_best(self, evaluated: nn.Module, logits_NK: Tensor, row: Mapping[str, Any]) -> None:
        """Write the weights and validation logits of the new best epoch; raises the errors of `save`."""
        self._require_finite()
        best = checkpoint.Checkpoint({"model": evaluated.state_dict(), "validation": {"logits": logits_NK}}, row)
        self._run.world.first(lambda: checkpoint.save(self._best, best))

    def remove_earlier_best(self) -> None:
        """Remove the weights of earlier best epochs."""
        checkpoint.remove_other_best(self._best)

    def best(self, evaluated: nn.Module) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Return the weights and the validation logits [N, K] of the best epoch.

        Without a best epoch, return the current weights and None. Earlier versions did not save logits: then also None.
        """
        if not self._progress.has_best:
            return evaluated.state_dict(), None
        tensors = self._run.world.first(lambda: checkpoint.load(self._best).tensors)
        return tensors["model"], tensors.get("validation", {}).get("logits")

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Restore optimizer and moving average from a checkpoint; model and progress are restored elsewhere.

        Raises:
            ArtefactError: the checkpoint does not fit the run.
        """
        with checkpoint.reporting_mismatch(self._run.folder.checkpoints):
            optim.restore(self._optimizer, found.tensors.get("optimizer", {}), found.state["optimizer"])
            if self.ema:
                self.ema.module.load_state_dict(found.tensors["ema"])
        if self._progress.has_best:
            self._check_best()

    def count_seconds(self) -> None:
        """Add the time since the last call to the duration of the loop."""
        now = time.monotonic()
        self._progress.seconds += now - self._counted
        self._counted = now

    def _check_best(self) -> None:
        """If the best epoch's weights were lost, forget that epoch: a later one, or the last, is kept instead."""
        try:
            self._run.world.first(lambda: files.verify_checksums(self._best))
        except ArtefactError as error:
            self._run.observer.warn(f"{error}; the best of the epochs from here on is kept instead")
            self._progress.best_accuracy, self._progress.best_epoch = -1.0, 0

    def _require_finite(self) -> None:
        models = [self._model, *([self.ema.module] if self.ema else [])]
        tensors = chain.from_iterable(model.state_dict().values() for model in models)
        largest = get_total_norm([tensor for tensor in tensors if tensor.is_floating_point()], math.inf)
        if not largest.isfinite():  # one value for all: a GPU would have to wait for each
            raise DivergedError(
                f"training diverged at step {self._progress.step}: weights overflow; {self._progress.advice}"
            )
