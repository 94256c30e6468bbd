"""Modes `finetune` and `scratch`: the whole network trains, or its last stages on top of a frozen part.

AdamW, linear warm-up and cosine decay, label smoothing, gradient clipping, augmented pictures. Everything random is a
function of (seed, epoch, picture) or (seed, step), so a resumed run ends in the same bits as an undisturbed one.
Frozen means frozen: a digest of the frozen parameters and buffers is taken before and after.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnn_tl import files
from cnn_tl.data.manifest import Picture
from cnn_tl.errors import ArtefactError, DivergedError, Stopped, UsageError
from cnn_tl.networks import freeze
from cnn_tl.networks.backbone import place, to_input
from cnn_tl.runtime import autocast, seed_of
from cnn_tl.training import checkpoint
from cnn_tl.training.feed import Feed, refuse_failures
from cnn_tl.training.schedule import learning_rate_factor
from cnn_tl.training.session import Session, in_groups

SAVE_EVERY_SECONDS = 300.0


@dataclass
class Progress:
    """Where training is; all of it travels in a checkpoint.

    Attributes:
        step: updates made so far.
        loss_sum, seen: the running mean of the epoch under way.
        best_accuracy, best_loss, best_epoch: the best epoch so far; the lower loss decides between equals.
        rows: the metrics of the finished epochs.
    """

    step: int = 0
    loss_sum: float = 0.0
    seen: int = 0
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    best_epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def train(session: Session) -> Tensor:
    """Train what the recipe does not freeze; leave the best epoch's weights and return their validation logits [N, K].

    Raises:
        DataError: too many broken pictures, or files that changed or vanished on the way.
        DivergedError: the loss or a gradient is no longer finite; nothing non-finite was saved.
        Stopped: a signal came; a checkpoint of this very step was written, and `--resume` goes on.
        RuntimeError: a bug of ours: something moved in the frozen part.
    """
    devices = range(torch.cuda.device_count()) if session.device.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices):  # every step seeds the global generators
        return _Training(session).run()


class _Training:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.settings = session.recipe.train
        self.seed = session.recipe.seed
        self.model = place(session.network.model, session.device)
        freeze.apply(self.model, _given(session.recipe.model.freeze))
        self.frozen_sha256 = freeze.frozen_digest(self.model)
        session.check_pictures()
        self.val_pictures = session.manifest.of("val")
        self.epochs = _given(self.settings.epochs)
        self.feed = Feed(session, self.epochs)
        self.steps_per_epoch = len(self.feed.batches(epoch=1))
        self.steps = self.steps_per_epoch * self.epochs
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.model, _given(self.settings.head_lr_factor), _given(self.settings.weight_decay))
        )
        self.progress = Progress()
        self._resume()
        self._saved = time.monotonic()

    def run(self) -> Tensor:
        try:
            while len(self.progress.rows) < self.epochs:
                self._epoch(len(self.progress.rows) + 1)
        except Stopped:
            if self.progress.step:  # before the first one there is nothing to go on with
                self._save()
            raise
        if self.progress.best_epoch:
            best = checkpoint.load(self._best())
            self.model.load_state_dict(best.tensors["model"])
        self.session.facts |= {"best_epoch": self.progress.best_epoch, "epochs": self.epochs}
        self._give_receipt()
        return self._validate()

    def _give_receipt(self) -> None:
        """Show that nothing moved in the frozen part, if there is one."""
        if freeze.frozen_digest(self.model) != self.frozen_sha256:
            raise RuntimeError("a frozen tensor moved")
        if self.session.recipe.model.freeze != "all":
            self.session.facts["frozen_sha256"] = self.frozen_sha256

    def _epoch(self, epoch: int) -> None:
        """Train what is left of an epoch (nothing, if a signal came during its validation), then validate."""
        session, progress = self.session, self.progress
        batches = self.feed.batches(epoch)
        done = progress.step - (epoch - 1) * self.steps_per_epoch
        assert 0 <= done <= len(batches), "the checkpoint is of other pictures"
        started, new = time.monotonic(), 0
        if done < len(batches):
            self.feed.prepare(epoch)
        task = session.observer.task(f"epoch {epoch}/{self.epochs}", len(self.feed.pictures))
        with task, self.feed.inputs(epoch, done) as inputs:
            session.observer.advance(sum(len(batch) for batch in batches[:done]))
            for pictures, x in inputs:
                self._step(pictures, x)
                new += len(pictures)
                session.observer.advance(len(pictures), self._figures())
                if time.monotonic() - self._saved > SAVE_EVERY_SECONDS:
                    self._save()
        self._end_epoch(epoch, images_per_second=new / max(time.monotonic() - started, 1e-9))

    def _figures(self) -> dict[str, float]:
        """Return what is shown beside the bar: the loss of this epoch, the accuracy after the one before."""
        last = {"val_accuracy": self.progress.rows[-1]["val_accuracy"]} if self.progress.rows else {}
        return {"loss": self.progress.loss_sum / self.progress.seen, **last}

    def _step(self, pictures: Sequence[Picture], x: Tensor) -> None:
        """Make one update, or raise before it if anything is not finite.

        Args:
            x: normalised pictures [N, 3, H, W], or activations [N, ...] inside `Cut.rest`.
        """
        progress = self.progress
        factor = learning_rate_factor(progress.step, self.steps, _given(self.settings.warmup))
        for group in self.optimizer.param_groups:
            group["lr"] = _given(self.settings.lr) * factor * group["factor"]
        torch.manual_seed(seed_of(self.seed, "step", progress.step))  # dropout and stochastic depth
        labels_N = torch.tensor([picture.label for picture in pictures], device=self.session.device)
        with autocast(self.session.device, self.session.precision):
            logits_NK = self._forward(x)
        loss = F.cross_entropy(logits_NK.float(), labels_N, label_smoothing=_given(self.settings.label_smoothing))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), _given(self.settings.clip_grad))
        if not (loss.isfinite() and norm.isfinite()):
            raise DivergedError(
                f"training diverged at step {progress.step + 1}: loss {loss.item():.4g}, "
                f"gradient norm {norm.item():.4g}; {self._advice()}"
            )
        self.optimizer.step()
        progress.step += 1
        progress.loss_sum += loss.item() * len(pictures)
        progress.seen += len(pictures)

    def _forward(self, x: Tensor) -> Tensor:
        try:
            return self.model(x)  # type: ignore[no-any-return]
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                "batch normalisation cannot train on a single picture of this size; "
                "use a larger --batch-size or --image-size"
            ) from error

    def _end_epoch(self, epoch: int, images_per_second: float) -> None:
        progress = self.progress
        logits = self._validate()
        if not logits.isfinite().all():
            raise DivergedError(f"training diverged in epoch {epoch}: the logits are not finite; {self._advice()}")
        labels = torch.tensor([picture.label for picture in self.val_pictures])
        accuracy = int((logits.argmax(1) == labels).sum()) / len(labels)
        row = {
            "epoch": epoch,
            "step": progress.step,
            "loss": progress.loss_sum / progress.seen,
            "val_loss": float(F.cross_entropy(logits, labels)),
            "val_accuracy": accuracy,
            "images_per_second": round(images_per_second, 1),
        }
        progress.rows.append(row)
        progress.loss_sum, progress.seen = 0.0, 0
        if (accuracy, -row["val_loss"]) > (progress.best_accuracy, -progress.best_loss):
            progress.best_accuracy, progress.best_loss, progress.best_epoch = accuracy, row["val_loss"], epoch
            self._require_finite()
            best = checkpoint.Checkpoint({"model": self.model.state_dict()}, row)
            checkpoint.save(self._best(), best)
        self._save()
        checkpoint.remove_best_but(self._best())
        self.session.run.write_metrics(progress.rows)
        self.session.observer.epoch({"epochs": self.epochs, **row})

    def _validate(self) -> Tensor:
        """Return the validation logits [N, K], float32 and evaluation mode, exactly as predict computes them."""
        session = self.session
        self.model.eval()
        logits = []
        with session.observer.task("validation", len(self.val_pictures)), torch.inference_mode():
            for batch in session.read(in_groups(self.val_pictures, session.batch_size), session.evaluation_pixels):
                refuse_failures(batch)
                x_NCHW = to_input(batch.pixels, session.network.preprocessing, session.device)
                logits.append(self.model(x_NCHW).float().cpu())
                session.observer.advance(len(batch.items))
        return torch.cat(logits)

    def _best(self) -> Path:
        return self.session.run.checkpoints / f"{checkpoint.BEST}-{self.progress.best_epoch:05d}"

    def _advice(self) -> str:
        return f"try a lower --lr than {_given(self.settings.lr):g}, or --set run.precision=fp32"

    def _require_finite(self) -> None:
        """Refuse to save weights that the last update has spoilt."""
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise DivergedError(f"training diverged at step {self.progress.step}: weights overflow; {self._advice()}")

    def _save(self) -> None:
        self._require_finite()
        tensors = {"model": self.model.state_dict(), "optimizer": checkpoint.optimizer_tensors(self.optimizer)}
        point = checkpoint.Checkpoint(tensors, vars(self.progress))
        checkpoint.save_step(self.session.run.checkpoints, self.progress.step, len(self.progress.rows), point)
        self._saved = time.monotonic()

    def _resume(self) -> None:
        """Go on from the newest checkpoint that is whole, if there is one."""
        found = checkpoint.load_newest(self.session.run.checkpoints, self.session.observer.warn)
        if found is None:
            return
        self.model.load_state_dict(found.tensors["model"])
        checkpoint.restore_optimizer(self.optimizer, found.tensors["optimizer"])
        try:
            self.progress = Progress(**found.state)
        except TypeError as error:
            raise ArtefactError(f"the checkpoint was written by another version of cnn-tl: {error}") from error
        if self.progress.best_epoch:
            self._check_best()
        self.session.observer.note(f"resumed at step {self.progress.step} of {self.steps}")

    def _check_best(self) -> None:
        """If the best epoch's weights were lost, choose among the epochs to come; with none to come, keep the last."""
        try:
            files.verify_checksums(self._best())
        except ArtefactError as error:
            self.session.observer.warn(f"{error}; the best of the epochs from here on is kept instead")
            self.progress.best_accuracy, self.progress.best_epoch = -1.0, 0


def _parameter_groups(model: nn.Module, head_factor: float, weight_decay: float) -> list[dict[str, Any]]:
    """Split the parameters that train: the head learns `head_factor` times faster, norms and biases do not decay."""
    head = freeze.FREEZE["head"](model)
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = head_factor if name in head else 1.0
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return [{"params": params, "factor": f, "weight_decay": d} for (f, d), params in groups.items()]


def _given(value: float | int | str | None) -> Any:
    assert value is not None, "the recipe is resolved"
    return value
