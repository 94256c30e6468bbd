"""The training loop: train an epoch, validate it, keep the weights of the best one, save checkpoints on the way.

All randomness is a function of (seed, epoch, image) or (seed, step), so a resumed run ends with exactly the weights of
an uninterrupted one. A digest of the frozen parameters and buffers, taken before and after, proves that they stayed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn

from cnn_tl.core.device import Precision
from cnn_tl.core.errors import ArtefactError, DivergedError, Stopped, printable
from cnn_tl.core.formatting import percent
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.checkpoint import Checkpoint
from cnn_tl.training.checkpoints.loop_checkpoint import Snapshots
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop.device_limit import device_limit, ready_step
from cnn_tl.training.loop.lr_range_test import RangeTest
from cnn_tl.training.loop.pending_losses import PendingLosses
from cnn_tl.training.loop.start import Start, find_start
from cnn_tl.training.loop.trainable import Trainable, loop_surroundings, open_trainable, quiet_compiler
from cnn_tl.training.loop.validator import Validator
from cnn_tl.training.outcome import LoopFacts, Temperature
from cnn_tl.training.step.gradients import memory_for
from cnn_tl.training.step.loss import Step
from cnn_tl.training.step.schedule import learning_rate_factor
from cnn_tl.training.step.update import Update

LONG_EPOCH = 60.0
"""Seconds of an epoch from which the device's limit is measured on a CPU, where a single step may take a second."""


@dataclass(frozen=True)
class Trained:
    """The result of a loop.

    Attributes:
        logits: validation logits [N, K] of the kept weights.
        features: the input of their classifier [N, D]; None if the model does more after it than one linear layer.
    """

    logits: Tensor
    features: Tensor | None
    facts: LoopFacts


def train(
    run: Run[LoopRecipe],
    dataset: Dataset[LoopRecipe],
    network: LazyNetwork,
    precision: Precision,
    head_logits_NK: Tensor | None = None,
) -> Trained:
    """Train the parameters that the recipe does not freeze, and leave the best epoch's weights in the network.

    If the recipe fits the head first, that state is epoch 0, and it is kept if no later epoch is better.

    Args:
        head_logits_NK: validation logits of a head that the caller has fitted. They are recorded as epoch 0, which is
            then not a candidate for the best epoch: the caller compares the two models itself.

    Raises:
        DataError: too many broken images, or files that changed or vanished.
        DivergedError: the loss or a gradient is no longer finite; no such weights were saved.
        ResourceError: not even one image fits into memory; or the disk is full.
        Stopped: a signal came; a checkpoint of the current step was written, and `--resume` continues from it.
        RuntimeError: a bug of ours: a frozen tensor changed.
    """
    with loop_surroundings(run, network), quiet_compiler():
        start = find_start(run, dataset, network)
        trainable = open_trainable(dataset, network, start.model, precision, start.progress, start.device_views)
        try:
            started = time.monotonic()
            if not start.progress.lr:  # `train.lr: auto`, not tested yet
                start.progress.lr = trainable.tested_lr()
            loop = Loop(run, dataset, trainable, start, started)
            if start.checkpoint is not None:
                loop.restore(start.checkpoint)
            elif start.head_is_fitted:
                loop.validate_fitted_head()
            elif head_logits_NK is not None:
                loop.record_fitted_head(head_logits_NK)
            return loop.run()
        finally:
            trainable.gradients.release()


def find_lr(
    run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], network: LazyNetwork, precision: Precision
) -> RangeTest:
    """Run the learning-rate range test on the first steps of the run; the model stays as it was.

    Raises:
        The errors of `train`.
    """
    with loop_surroundings(run, network):
        start = find_start(run, dataset, network)
        views = start.device_views
        return open_trainable(dataset, network, start.model, precision, start.progress, views).range_test()


class Loop:
    """One training loop; `restore` or `record_fitted_head` may precede `run`.

    Args:
        started: when the loop began, by `time.monotonic`.
    """

    def __init__(
        self, run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], trainable: Trainable, start: Start, started: float
    ) -> None:
        self._run, self._dataset, self._trainable = run, dataset, trainable
        self._settings, self._model, self._images = run.recipe.train, trainable.model, start.images
        self._batches, self._phases, self._progress = trainable.batches, trainable.phases, start.progress
        self._optimizer = trainable.optimizer(self._progress.lr)
        # with a constant decay, the average of a short run would hardly leave the initial weights
        self._ema = ModelEmaV3(self._model, self._settings.ema, use_warmup=True) if self._settings.ema else None
        self._update = Update(self._model, self._optimizer, trainable.gradients, self._settings.clip_grad)
        self._ready: tuple[Tensor, Tensor] | None = None  # a whole step, until the limit is measured
        self._limit: float | None = None
        self._losses = PendingLosses(trainable.network.device, self._progress)
        network = trainable.network
        self._validator = Validator(dataset, network, self._model)
        self._snapshots = Snapshots(run, self._progress, self._model, self._optimizer, self._ema, started)

    @property
    def _evaluated(self) -> nn.Module:
        """The network that is validated and saved: the moving average of the weights, if the recipe asks for one."""
        return self._ema.module if self._ema else self._model

    def restore(self, found: Checkpoint) -> None:
        """Restore the rest of a checkpoint, whose model and progress `find_start` has loaded."""
        self._snapshots.restore(found)
        if self._progress.metrics:
            self._run.log(self._progress.metrics)  # a kill after the checkpoint may have prevented this
        self._run.observer.note(f"resumed at step {self._progress.step} of {self._batches.length.steps}")

    def validate_fitted_head(self) -> None:
        """Validate the network with its fitted head as epoch 0, a candidate for the best epoch."""
        logits_NK = self._validator.logits(self._evaluated, "fitted head")
        self.record_fitted_head(logits_NK)
        if self._progress.update_best(self._progress.start):
            self._snapshots.save_fitted_head(self._evaluated, logits_NK, self._progress.start)

    def record_fitted_head(self, head_logits_NK: Tensor) -> None:
        """Record the scores of the fitted head, before the first step, as epoch 0."""
        if not head_logits_NK.isfinite().all():
            raise DivergedError("the fitted head gives logits that are not finite; set train.head_start: random")
        self._progress.start = {"epoch": 0, "step": 0, **self._validator.scores(head_logits_NK)}
        self._run.log(self._progress.metrics)
        accuracy = self._progress.start["val_accuracy"]
        self._run.observer.note(f"fitted head alone: {percent(accuracy)} of the validation images right")

    def run(self) -> Trained:
        """Train to the last epoch, or until `train.patience` epochs were no better; then load the best weights."""
        with self._snapshots.written_at_the_end():
            self._all_epochs()
            self._phases.verify()
            weights, logits_NK = self._snapshots.best(self._evaluated)
            with checkpoint.reporting_mismatch(self._run.folder.checkpoints):
                self._model.load_state_dict(weights)
            self._phases.verify()  # now for the weights that are kept
            self._snapshots.count_seconds()
            self._ema = None  # its weights are in the model now
            logits_NK = self._validator.kept_logits() if logits_NK is None else logits_NK
            logits_NK, temperature = self._validator.fit_temperature(logits_NK)
            features_ND = self._validator.kept_features()
        return Trained(logits_NK, features_ND, self._facts(temperature))

    def _all_epochs(self) -> None:
        progress, patience = self._progress, self._settings.patience
        try:
            while progress.epochs < self._batches.length.epochs and not progress.has_stalled(patience):
                self._epoch(progress.epochs + 1)
        except Stopped:
            if progress.step:  # before the first step there is nothing to save
                self._save()
                self._snapshots.settle()
            raise

    def _epoch(self, epoch: int) -> None:
        """Train the remaining steps of an epoch (none, if the run was stopped during validation), then validate."""
        run, progress, steps_per_epoch = self._run, self._progress, self._batches.length.steps_per_epoch
        if self._trainable.enter(epoch):
            self._limit = None  # the steps of another phase cost more
        batches = self._batches.of_epoch(epoch)
        done = progress.step - (epoch - 1) * steps_per_epoch
        if not 0 <= done <= len(batches):
            raise ArtefactError(
                f"the checkpoints in {printable(run.folder.checkpoints)} do not fit the recipe beside them: step "
                f"{progress.step} is not in epoch {epoch}; restore recipe.yaml, or start again with another --output"
            )
        started = time.monotonic()
        if done < len(batches):
            self._batches.prepare(epoch)
        task = run.observer.task(f"epoch {epoch}/{self._batches.length.epochs}", sum(map(len, batches)))
        memory = memory_for("a training step", "set train.micro_batch, or a smaller --batch-size or --image-size")
        with task, memory, self._batches.steps(epoch, done) as steps:
            run.observer.advance(sum(len(batch) for batch in batches[:done]))
            for step in steps:
                self._step(step)
                run.observer.advance(step.total, self._figures())
                if self._snapshots.is_due():
                    self._save()
            self._losses.read(wait=True)
            seconds = max(time.monotonic() - started, 1e-9)
            self._limit = self._limit or self._measured_limit(seconds)
        speed = {"images_per_second": round(sum(map(len, batches[done:])) / seconds, 1)}
        if self._limit:
            speed["of_limit"] = round(speed["images_per_second"] / self._limit, 3)
        self._end_epoch(epoch, speed)

    def _step(self, step: Step) -> None:
        """Update the weights once, and count the losses of earlier steps that the device has computed."""
        progress, trainable = self._progress, self._trainable
        factor = learning_rate_factor(progress.step, self._batches.length.steps, self._settings)
        self._update.set_lr(progress.lr * factor)
        x, targets_NK = trainable.targets.mixed(step, progress.step)
        targets_NK = targets_NK if step.counts else targets_NK * 0
        if self._limit is None and (self._ready is None or len(self._ready[0]) <= len(x)):
            self._ready = x, targets_NK
        losses = self._update(x, targets_NK, progress.step, first=step.first, total=step.total)
        if trainable.gradients.micro_batch < trainable.whole_batch:
            progress.micro_batch = trainable.gradients.micro_batch
        progress.step += 1
        self._losses.add(losses, step.total)
        self._losses.read()
        if self._ema:
            self._ema.update(self._model, step=progress.step)

    def _measured_limit(self, seconds: float) -> float | None:
        """Return the images per second of a step whose images are on the device already; None if it is not measured.

        On a CPU one step may take longer than the rest of a short run, so there only a long epoch is worth it.

        Args:
            seconds: duration of the epoch so far.
        """
        world, device = self._run.world, self._trainable.network.device
        seconds = max(world.gather(seconds))
        if self._ready is None or (device.type == "cpu" and seconds < LONG_EPOCH):
            return None
        (x, targets_NK), self._ready = self._ready, None
        images = sum(world.gather(len(x)))
        step = ready_step(self._update, x, targets_NK, images)
        budget = min(max(0.2, 0.02 * seconds * self._batches.length.epochs), 1.0)
        with self._batches.as_in_a_step():
            return device_limit(
                step, images, models=[self._model], optimizer=self._optimizer, device=device, world=world,
                seconds=budget,
            )  # fmt: skip

    def _save(self) -> None:
        self._losses.read(wait=True)
        self._snapshots.save()

    def _figures(self) -> dict[str, float]:
        """Return the figures beside the progress bar: the loss of this epoch, the accuracy of the last one."""
        rows = self._progress.metrics
        last = {"val_accuracy": rows[-1]["val_accuracy"]} if rows else {}
        seen = self._progress.seen
        return {"loss": self._progress.loss_sum / seen, **last} if seen else last

    def _end_epoch(self, epoch: int, speed: dict[str, float]) -> None:
        """Validate; write the weights if they are the best so far, a checkpoint and the metrics."""
        progress = self._progress
        logits_NK = self._validator.logits(self._evaluated)
        if not logits_NK.isfinite().all():
            raise DivergedError(f"training diverged in epoch {epoch}: the logits are not finite; {progress.advice}")
        group = self._optimizer.param_groups[0]
        row = {
            "epoch": epoch,
            "step": progress.step,
            **progress.mean_losses(),
            **self._validator.scores(logits_NK),
            "lr": group["lr"] / group["factor"],
            **speed,
        }
        progress.end_epoch(row)
        if progress.update_best(row):
            self._snapshots.save_best(self._evaluated, logits_NK, row)
        self._snapshots.save(epoch_ended=True)
        self._run.observer.epoch({"epochs": self._batches.length.epochs, **row})

    def _facts(self, temperature: Temperature | None) -> LoopFacts:
        progress = self._progress
        ended_early = progress.epochs < self._batches.length.epochs
        receipt: dict[str, Any] = progress.receipts[-1]
        some_frozen = any(stage["trainable"] < stage["parameters"] for stage in receipt["stages"])
        return LoopFacts(
            best_epoch=progress.best_epoch if progress.has_best else None,
            epochs=progress.epochs,
            lr=progress.lr,
            seconds_of_the_loop=round(progress.seconds, 2),
            phases=progress.receipts,
            images=self._images,
            activations=self._trainable.activations,
            sources=self._batches.sources,
            fitted_head_accuracy=progress.start["val_accuracy"] if progress.start else None,
            ended_early=f"no better epoch in {self._settings.patience}" if ended_early else None,
            micro_batch=progress.micro_batch or None,
            frozen_sha256=receipt["frozen_sha256"] if some_frozen else None,
            temperature=temperature,
        )
