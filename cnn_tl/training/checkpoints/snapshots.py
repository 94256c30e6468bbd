"""What a checkpoint of the training loop holds: saved, and put back to the bit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.optim import Optimizer

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, DivergedError, printable
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.train_state import Progress
from cnn_tl.training.context import Session
from cnn_tl.training.step import optimizer as optim

SAVE_EVERY_SECONDS = 300.0
AGREE_EVERY_STEPS = 16
"""How often several processes ask the first of them whether it is time to save: each time costs an exchange."""


def say_that_it_begins_anew(session: Session[LoopRecipe]) -> None:
    """Say that there is no checkpoint to resume a run from; where epochs have ended there was one."""
    if not session.is_resumed:
        return
    text = f"there is no checkpoint in {printable(session.run.checkpoints)}: training begins with the first step"
    if any(row.get("epoch", 0) > 0 for row in session.run.read_metrics()):
        session.observer.warn(f"{text} again; what had been trained is lost")
    else:
        session.observer.note(text)


class Snapshots:
    """The checkpoints of a loop, and the weights of its best epoch.

    Attributes:
        ema: the moving average of the weights, where there is one.
    """

    def __init__(
        self,
        session: Session[LoopRecipe],
        progress: Progress,
        model: nn.Module,
        optimizer: Optimizer,
        ema: ModelEmaV3 | None,
        started: float,
    ) -> None:
        """Take what is to be saved, and when (`time.monotonic`) the loop has begun."""
        self.ema = ema
        self._session, self._progress, self._model, self._optimizer = session, progress, model, optimizer
        self._saved, self._counted = time.monotonic(), started

    @property
    def _best(self) -> Path:
        return self._session.run.checkpoints / f"{checkpoint.BEST}-{self._progress.best_epoch:05d}"

    def is_due(self) -> bool:
        """Say, alike in all processes, whether enough time has passed since the last one."""
        world = self._session.world
        if not world.is_alone and self._progress.step % AGREE_EVERY_STEPS:
            return False
        return world.first(lambda: time.monotonic() - self._saved > SAVE_EVERY_SECONDS)

    def save(self) -> None:
        """Write the present state.

        Raises:
            DivergedError: the last update has spoilt it.
            ResourceError: the disk is full or not writable.
        """
        self._require_finite()
        self.count_seconds()
        tensors = {"model": self._model.state_dict(), "optimizer": optim.state_tensors(self._optimizer)}
        if self.ema:
            tensors["ema"] = self.ema.module.state_dict()
        state = {"progress": vars(self._progress), "optimizer": optim.state_numbers(self._optimizer)}
        point, progress = checkpoint.Checkpoint(tensors, state), self._progress
        folder = self._session.run.checkpoints
        self._session.world.first(lambda: checkpoint.save_step(folder, progress.step, progress.epochs, point))
        self._saved = time.monotonic()

    def save_best(self, judged: nn.Module, logits_NK: Tensor, row: Mapping[str, Any]) -> None:
        """Write the weights and validation logits of the epoch that is the best now; see `save` for what is raised."""
        self._require_finite()
        best = checkpoint.Checkpoint({"model": judged.state_dict(), "validation": {"logits": logits_NK}}, row)
        self._session.world.first(lambda: checkpoint.save(self._best, best))

    def remove_what_was_best(self) -> None:
        """Remove the weights of the epochs that were the best before."""
        checkpoint.remove_best_but(self._best)

    def best(self, judged: nn.Module) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Return weights and validation logits [N, K] of the best epoch.

        Where there is none, the present weights; where its logits are not at hand (earlier versions kept none), None.
        """
        if not self._progress.has_best:
            return judged.state_dict(), None
        tensors = self._session.world.first(lambda: checkpoint.load(self._best).tensors)
        return tensors["model"], tensors.get("validation", {}).get("logits")

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """Put back what a checkpoint holds beside the model and the progress.

        Raises:
            ArtefactError: it does not fit the run.
        """
        with checkpoint.fitting(self._session.run.checkpoints):
            optim.restore(self._optimizer, found.tensors.get("optimizer", {}), found.state["optimizer"])
            if self.ema:
                self.ema.module.load_state_dict(found.tensors["ema"])
        if self._progress.has_best:
            self._check_best()

    def count_seconds(self) -> None:
        """Add the time that has passed to what the loop has taken."""
        now = time.monotonic()
        self._progress.seconds += now - self._counted
        self._counted = now

    def _check_best(self) -> None:
        """If the best epoch's weights were lost, choose among the epochs to come; with none to come, keep the last."""
        try:
            self._session.world.first(lambda: files.verify_checksums(self._best))
        except ArtefactError as error:
            self._session.observer.warn(f"{error}; the best of the epochs from here on is kept instead")
            self._progress.best_accuracy, self._progress.best_epoch = -1.0, 0

    def _require_finite(self) -> None:
        models = [self._model, *([self.ema.module] if self.ema else [])]
        tensors = chain.from_iterable(model.state_dict().values() for model in models)
        if not all(tensor.isfinite().all() for tensor in tensors):
            raise DivergedError(
                f"training diverged at step {self._progress.step}: weights overflow; {self._progress.advice}"
            )
