"""Save the state of a training loop in checkpoints, and restore it exactly.

Training waits only while the state is copied into the host's memory; a thread writes the copy while training goes on.
It writes one state at a time, and all of them before the loop ends.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
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
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._writing: Future[None] | None = None
        self._new_best: checkpoint.Checkpoint | None = None  # not yet given to the thread
        self._best_found: checkpoint.Checkpoint | None = None

    @property
    def _best(self) -> Path:
        return self._run.folder.checkpoints / f"{checkpoint.BEST}-{self._progress.best_epoch:05d}"

    def is_due(self) -> bool:
        """Return whether enough time has passed since the last checkpoint, the same in all processes."""
        world = self._run.world
        if not world.is_alone and self._progress.step % AGREE_EVERY_STEPS:
            return False
        return world.first(lambda: time.monotonic() - self._saved > SAVE_EVERY_SECONDS)

    def save(self, *, epoch_ended: bool = False) -> None:
        """Begin to write the current state, and the weights of a new best epoch, once the state before is written.

        Args:
            epoch_ended: the metrics are written too.

        Raises:
            DivergedError: the last update made a weight infinite or NaN.
            ResourceError: the disk is full or not writable, now or when the state before was written.
        """
        self._require_finite()
        self.count_seconds()
        self.settle()
        self._run.world.first(lambda: self._begin_to_write(epoch_ended=epoch_ended))
        self._saved = time.monotonic()

    def save_fitted_head(self, model: nn.Module, logits_NK: Tensor, row: Mapping[str, Any]) -> None:
        """Begin to write the weights and validation logits of epoch 0 as those of the best epoch.

        Raises:
            DivergedError: a weight is infinite or NaN.
        """
        self.save_best(model, logits_NK, row)
        best, self._new_best, place = self._new_best, None, self._best
        if best is not None:
            self._writing = self._thread.submit(checkpoint.save, place, best)

    def save_best(self, evaluated: nn.Module, logits_NK: Tensor, row: Mapping[str, Any]) -> None:
        """Copy the weights and validation logits of the new best epoch; `save`, which comes next, writes them.

        Raises:
            DivergedError: the last update made a weight infinite or NaN.
        """
        self._require_finite()
        if self._run.world.is_first:
            tensors = {"model": copies_of(evaluated.state_dict()), "validation": copies_of({"logits": logits_NK})}
            self._new_best = self._best_found = checkpoint.Checkpoint(tensors, dict(row))

    def settle(self) -> None:
        """Wait until the state that was saved last is written.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        self._run.world.first(self._wait)

    @contextmanager
    def written_at_the_end(self) -> Iterator[None]:
        """Wait for the thread when the block ends, also by an error, which then counts more than one of the thread.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        try:
            yield
            self.settle()
        finally:
            with suppress(Exception):
                self._wait()
            self._thread.shutdown()

    def _begin_to_write(self, *, epoch_ended: bool) -> None:
        if epoch_ended:
            self._run.log(self._progress.metrics)
        progress, best, self._new_best = self._progress, self._new_best, None
        if best is not None and not self.ema:  # of the epoch that has just ended
            tensors = {"model": best.tensors["model"]}
        else:
            tensors = {"model": copies_of(self._model.state_dict())}
        tensors["optimizer"] = copies_of(optim.state_tensors(self._optimizer))
        if self.ema:
            tensors["ema"] = copies_of(self.ema.module.state_dict())
        state = {"progress": asdict(progress), "optimizer": optim.state_numbers(self._optimizer)}
        point, place = checkpoint.Checkpoint(tensors, state), self._best
        step, epochs, has_best = progress.step, progress.epochs, progress.has_best

        def write() -> None:
            if best is not None:
                checkpoint.save(place, best)
            checkpoint.save_step(self._run.folder.checkpoints, step, epochs, point)
            if has_best:
                checkpoint.remove_other_best(place)  # now no checkpoint to resume from needs them

        self._writing = self._thread.submit(write)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def best(self, evaluated: nn.Module) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Return the weights and the validation logits [N, K] of the best epoch.

        Without a best epoch, return the current weights and None. Earlier versions did not save logits: then also None.
        """
        if not self._progress.has_best:
            return evaluated.state_dict(), None
        found = self._run.world.first(lambda: self._best_found or checkpoint.load(self._best))
        return found.tensors["model"], found.tensors.get("validation", {}).get("logits")

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


def copies_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of tensors in the host's memory, where no later step changes them."""
    copies = {name: _copy(tensor.detach()) for name, tensor in tensors.items()}
    for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
        torch.cuda.current_stream(device).synchronize()
    return copies


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy in the host's memory; from a GPU it has only begun."""
    if tensor.is_cuda:
        with suppress(RuntimeError):  # the system may not pin so much memory
            pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            return pinned.copy_(tensor, non_blocking=True)
    return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
