"""Modes `finetune` and `scratch`: the network trains, whole or in part, on images that vary from epoch to epoch.

Everything random is a function of (seed, epoch, image) or (seed, step), so a resumed run ends in the same bits as an
undisturbed one. Frozen means frozen: a digest of the frozen parameters and buffers is taken before and after.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn

from cnn_tl.core.errors import ArtefactError, DivergedError, Stopped, printable
from cnn_tl.core.formatting import percent
from cnn_tl.features.embedding import quiet_compiler
from cnn_tl.networks.backbone import place, synchronised
from cnn_tl.recipe.defaults import default_lr
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.snapshots import Snapshots, say_that_it_begins_anew
from cnn_tl.training.checkpoints.train_state import Progress
from cnn_tl.training.context import Session
from cnn_tl.training.loop import lr_range_test
from cnn_tl.training.loop.auxiliary import auxiliary_classifiers
from cnn_tl.training.loop.batches import Feed, Step
from cnn_tl.training.loop.head_init import set_fitted_head
from cnn_tl.training.loop.lr_range_test import RangeTest
from cnn_tl.training.loop.prefetch import Ahead, busy
from cnn_tl.training.loop.temperature import divide_by_temperature
from cnn_tl.training.loop.validation import outputs, scores
from cnn_tl.training.step import optimizer as optim
from cnn_tl.training.step.gradients import Gradients, memory_for
from cnn_tl.training.step.loss import make_loss
from cnn_tl.training.step.schedule import learning_rate_factor
from cnn_tl.training.step.targets import Targets
from cnn_tl.training.step.unfreezing import Phases


def train(session: Session[LoopRecipe], of_head_NK: Tensor | None = None) -> Tensor:
    """Train what the recipe does not freeze; leave the best epoch's weights and return their validation logits [N, K].

    A head that is fitted here, before the first step, is epoch 0: where no later one is better, it is what is left.

    Args:
        of_head_NK: the validation logits of the model as it is, where a caller has fitted its head, which then compares
            the two itself.

    Raises:
        DataError: too many broken images, or files that changed or vanished on the way.
        DivergedError: the loss or a gradient is no longer finite; nothing non-finite was saved.
        ResourceError: not even one image fits into the memory; or the disk is full.
        Stopped: a signal came; a checkpoint of this very step was written, and `--resume` goes on.
        RuntimeError: a bug of ours: something moved in the frozen part.
    """
    with _callers_random_numbers(session), quiet_compiler(), auxiliary_classifiers(session):
        return _Training(session).run(of_head_NK)


def find_lr(session: Session[LoopRecipe]) -> RangeTest:
    """Try learning rates from very low to too high on the run's own first steps; the model stays as it was.

    Raises:
        The errors of `train`.
    """
    with _callers_random_numbers(session), auxiliary_classifiers(session):
        return _Training(session, lr=lr_range_test.LOWEST).find_lr()


def _callers_random_numbers(session: Session[LoopRecipe]) -> AbstractContextManager[None]:
    """Leave the global generators as they were after the body, in which every step seeds them."""
    devices = range(torch.cuda.device_count()) if session.device.type == "cuda" else ()
    return torch.random.fork_rng(devices=devices)


class _Training:
    def __init__(self, session: Session[LoopRecipe], lr: float | None = None) -> None:
        self.session = session
        self.settings = session.recipe.train
        self.model = place(session.network.model, session.device)
        if session.recipe.model.bn == "sync":
            self.model = session.network.model = synchronised(self.model, session.device)
        session.check_images()
        found = session.world.first(lambda: checkpoint.load_newest(session.run.checkpoints, session.observer.warn))
        self.progress = Progress.read(found.state) if found else Progress(lr=lr or _number(self.settings.lr))
        if found:
            with checkpoint.fitting(session.run.checkpoints):
                self.model.load_state_dict(found.tensors["model"])
        else:
            say_that_it_begins_anew(session)
        self._head_is_new = not found and session.recipe.fits_head and set_fitted_head(session)
        self.feed = Feed(session)
        self.progress.reopen(self.feed.steps_per_epoch, self.feed.steps)
        self.phases = Phases(self.model, session.recipe.model, self.progress.receipts)
        with checkpoint.fitting(session.run.checkpoints) if found else nullcontext():
            self.phases.enter(self.progress.epochs + 1)
        self.feed.open(gradual=self.phases.gradual)
        self.targets = Targets(session)
        self.gradients = Gradients(
            self.model,
            make_loss(self.settings, self.targets.class_weights(self.feed.labels)),
            session.device,
            session.precision,
            session.recipe.seed,
            self.progress.micro_batch or self._whole_batch,
            session.observer.note,
            session.world,
            self.settings.aux_weight,
        )
        self._warn_of_other_numbers()
        self._share_gradients()
        started = time.monotonic()
        if not self.progress.lr:
            self.progress.lr = self._rate_by_a_test()
        self.optimizer = self._optimizer(self.progress.lr)
        # the decay rises to its value, or the average of a short run would be where it began
        self.ema = ModelEmaV3(self.model, self.settings.ema, use_warmup=True) if self.settings.ema else None
        self.snapshots = Snapshots(session, self.progress, self.model, self.optimizer, self.ema, started)
        if found:
            self.snapshots.restore(found)
            if self.progress.metrics:
                session.log(self.progress.metrics)  # a kill may have come between the checkpoint and the rows
            session.observer.note(f"resumed at step {self.progress.step} of {self.feed.steps}")

    @property
    def _whole_batch(self) -> int:
        """How many images pass the network at once while memory suffices."""
        return self.settings.micro_batch or self.session.batch_size + 1

    def _warn_of_other_numbers(self) -> None:
        """Say if the run goes on in another number format or elsewhere than it began, which changes the last bits."""
        now, before = f"{self.session.precision} on {self.session.device.type}", self.progress.computed
        if before and before != now:
            self.session.observer.warn(
                f"the run goes on in {now}, and was in {before}: its weights will not be the same to the bit"
            )
        self.progress.computed = now

    def _optimizer(self, lr: float) -> torch.optim.Optimizer:
        return optim.make_optimizer(self.model, self.settings, self.session.device, self.phases.trains, lr)

    def _share_gradients(self) -> None:
        """Exchange the gradients of what trains in this phase, where several processes train.

        A compiled step is made only when asked for: on two cores it took two minutes to make and was 14% faster. It is
        made for each size of a batch, so that it does not depend on which came first, after an interruption say.
        """
        model = self.model
        if self.session.recipe.run.compile == "always" and not self.feed.begins_with_activations:
            model = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        self.gradients.use(self.session.world.parallel(model))

    def find_lr(self) -> RangeTest:
        """Try learning rates from very low to too high; the model stays as it was."""
        observer = self.session.observer
        with observer.task("learning rates", lr_range_test.images_in(self.feed)):
            optimizer = self._optimizer(lr_range_test.LOWEST)
            return lr_range_test.range_test(
                self.model, optimizer, self.gradients, self.feed, self.targets.of, observer.advance,
                self.session.recipe.mode,
            )  # fmt: skip

    def _rate_by_a_test(self) -> float:
        """Return the rate that a range test suggests, or the mode's own where it cannot tell."""
        note, found = self.session.observer.note, self.find_lr()
        rate = found.suggestion
        if rate is None:
            rate = default_lr(self.session.recipe)
            note(f"learning rate {rate:g}, the mode's own: a range test could not tell of a better one")
        else:
            note(f"learning rate {rate:.2g}, by a range test ({found.default})")
        return rate

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and kept: the moving average of the weights, where there is one."""
        return self.ema.module if self.ema else self.model

    def run(self, of_head_NK: Tensor | None) -> Tensor:
        if self._head_is_new:
            of_head_NK = self._validate("fitted head")
        if of_head_NK is not None and not self.progress.step:
            self._begin_with(of_head_NK)
            if self._head_is_new and self.progress.take_for_best(self.progress.start):
                self.snapshots.save_best(self.judged, of_head_NK, self.progress.start)
        try:
            while self.progress.epochs < self.feed.epochs and not self.progress.has_stalled(self.settings.patience):
                self._epoch(self.progress.epochs + 1)
        except Stopped:
            if self.progress.step:  # before the first one there is nothing to go on with
                self.snapshots.save()
            raise
        self.phases.verify()
        weights, logits_NK = self.snapshots.best(self.judged)
        with checkpoint.fitting(self.session.run.checkpoints):
            self.model.load_state_dict(weights)
        self._give_receipt()
        self.ema = None
        logits_NK = self._validate() if logits_NK is None else logits_NK
        return divide_by_temperature(self.session, self.model, logits_NK, self._validate)

    def _begin_with(self, of_head_NK: Tensor) -> None:
        """Write down as epoch 0 how good the fitted head is before the first step."""
        if not of_head_NK.isfinite().all():
            raise DivergedError("the fitted head gives logits that are not finite; set train.head_start: random")
        self.progress.start = {"epoch": 0, "step": 0, **scores(self.session, of_head_NK)}
        self.session.log(self.progress.metrics)
        accuracy = self.progress.start["val_accuracy"]
        self.session.observer.note(f"fitted head alone: {percent(accuracy)} of the validation images right")

    def _give_receipt(self) -> None:
        """Show that what was frozen to the end is in the model that is kept as it was at the start."""
        progress, facts = self.progress, self.session.facts
        self.phases.verify()
        self.snapshots.count_seconds()
        facts |= {"best_epoch": progress.best_epoch if progress.has_best else None, "epochs": progress.epochs}
        facts["lr"] = progress.lr
        facts["seconds_of_the_loop"] = round(progress.seconds, 2)
        if progress.start:
            facts["fitted_head_accuracy"] = progress.start["val_accuracy"]
        if progress.epochs < self.feed.epochs:
            facts["ended_early"] = f"no better epoch in {self.settings.patience}"
        if progress.micro_batch:
            facts["micro_batch"] = progress.micro_batch
        facts["phases"] = progress.receipts
        if any(stage["trainable"] < stage["parameters"] for stage in progress.receipts[-1]["stages"]):
            facts["frozen_sha256"] = progress.receipts[-1]["frozen_sha256"]

    def _epoch(self, epoch: int) -> None:
        """Train what is left of an epoch (nothing, if a signal came during its validation), then validate."""
        session, progress = self.session, self.progress
        if self.phases.enter(epoch):
            self._share_gradients()
        batches = self.feed.batches(epoch)
        done = progress.step - (epoch - 1) * self.feed.steps_per_epoch
        if not 0 <= done <= len(batches):
            raise ArtefactError(
                f"the checkpoints in {printable(session.run.checkpoints)} do not fit the recipe beside them: step "
                f"{progress.step} is not in epoch {epoch}; restore recipe.yaml, or start anew with another --output"
            )
        started, waited = time.monotonic(), 0.0
        if done < len(batches):
            self.feed.prepare(epoch)
        task = session.observer.task(f"epoch {epoch}/{self.feed.epochs}", sum(map(len, batches)))
        with task, self.feed.inputs(epoch, done) as inputs:
            session.observer.advance(sum(len(batch) for batch in batches[:done]))
            steps = Ahead(inputs, lambda: self.feed.seconds_reading)
            for step in steps:
                self._step(step, steps)
                session.observer.advance(step.total, self._figures())
                if self.snapshots.is_due():
                    self.snapshots.save()
            waited = max(session.world.gather(steps.waited))
        seconds = max(time.monotonic() - started, 1e-9)
        images = sum(map(len, batches[done:]))
        speed = {"images_per_second": round(images / seconds, 1), "data_wait": round(waited / seconds, 3)}
        self.feed.waited(speed["data_wait"])
        self._end_epoch(epoch, speed)

    def _figures(self) -> dict[str, float]:
        """Return what is shown beside the bar: the loss of this epoch, the accuracy after the one before."""
        rows = self.progress.metrics
        last = {"val_accuracy": rows[-1]["val_accuracy"]} if rows else {}
        return {"loss": self.progress.loss_sum / self.progress.seen, **last}

    def _step(self, step: Step, steps: Ahead[Step]) -> None:
        """Make one update, or raise before it if anything is not finite; the next step's images come meanwhile."""
        progress = self.progress
        factor = learning_rate_factor(progress.step, self.feed.steps, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = progress.lr * factor * group["factor"]
        self.optimizer.zero_grad()
        x, targets_NK = self.targets.mixed(step, progress.step)
        targets_NK = targets_NK * step.counts
        losses = self.gradients.add(x, targets_NK, progress.step, first=step.first, total=step.total)
        if self.gradients.micro_batch < self._whole_batch:
            progress.micro_batch = self.gradients.micro_batch
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_grad)
        steps.fetch(busy(self.session.device))  # a GPU is still at this one; the next line waits for it
        loss_sum, *aux_sums = losses.tolist()
        if not (norm.isfinite() and abs(loss_sum) < float("inf")):
            raise DivergedError(
                f"training diverged at step {progress.step + 1}: loss {loss_sum / step.total:.4g}, "
                f"gradient norm {norm.item():.4g}; {progress.advice}"
            )
        with memory_for("the optimiser's state", "set train.optimizer: sgd, or use a smaller --model"):
            self.optimizer.step()
        progress.step += 1
        if self.ema:
            self.ema.update(self.model, step=progress.step)
        progress.loss_sum += loss_sum
        progress.aux_sums = [a + b for a, b in zip(progress.aux_sums or [0.0] * len(aux_sums), aux_sums, strict=True)]
        progress.seen += step.total

    def _end_epoch(self, epoch: int, speed: dict[str, float]) -> None:
        progress = self.progress
        logits = self._validate()
        if not logits.isfinite().all():
            raise DivergedError(f"training diverged in epoch {epoch}: the logits are not finite; {progress.advice}")
        row = {
            "epoch": epoch,
            "step": progress.step,
            "loss": progress.loss_sum / max(1, progress.seen),
            **{f"aux{n}_loss": total / max(1, progress.seen) for n, total in enumerate(progress.aux_sums, 1)},
            **scores(self.session, logits),
            "lr": self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["factor"],
            **speed,
        }
        progress.end_epoch(row)
        if progress.take_for_best(row):
            self.snapshots.save_best(self.judged, logits, row)
        self.snapshots.save()
        self.session.world.first(self._tidy)
        self.session.observer.epoch({"epochs": self.feed.epochs, **row})

    def _tidy(self) -> None:
        self.snapshots.remove_what_was_best()
        self.session.log(self.progress.metrics)

    def _validate(self, task: str = "validation") -> Tensor:
        """Return the validation logits [N, K] of the network that is kept."""
        world, model = self.session.world, self.judged.eval()
        world.broadcast_buffers(self.model, *([model] if self.ema else []))
        return outputs(self.session, model, self.session.manifest.of("val"), task)


def _number(value: float | str | None) -> float:
    return value if isinstance(value, float | int) else 0.0
