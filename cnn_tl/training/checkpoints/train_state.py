"""Where a training loop is: everything that a checkpoint holds besides the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cnn_tl.core.errors import ArtefactError


@dataclass
class Progress:
    """The state of training apart from tensors; saved in each checkpoint.

    Attributes:
        step: number of updates so far.
        loss_sum, seen: sum of the losses, and number of images, of the current epoch.
        aux_sums: sums of the losses of the auxiliary classifiers.
        ended: these three at the end of the last epoch, in case a longer run continues that epoch.
        best_accuracy, best_loss, best_epoch: the best epoch so far, see `has_best`; of two epochs with the same
            accuracy, the one with the lower loss is better.
        seconds: duration of the loop, the sum over all starts of the run.
        lr: the peak learning rate; 0 until the range test has found it.
        micro_batch: images in one forward pass since memory ran out; 0: it has not.
        computed: precision and kind of device, such as "bf16 on cuda".
        receipts: `Phases.receipts`.
        rows: metrics of the finished epochs.
        start: metrics of epoch 0, before the first step, if a head was fitted; otherwise empty.
    """

    step: int = 0
    loss_sum: float = 0.0
    aux_sums: list[float] = field(default_factory=list)
    seen: int = 0
    ended: dict[str, Any] = field(default_factory=dict)
    best_accuracy: float = -1.0
    best_loss: float = 0.0
    best_epoch: int = 0
    seconds: float = 0.0
    lr: float = 0.0
    micro_batch: int = 0
    computed: str = ""
    receipts: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    start: dict[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl: epoch 0, if there is one, then the finished epochs."""
        return [self.start, *self.rows] if self.start else self.rows

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.rows)

    @property
    def advice(self) -> str:
        """Advice for the message that training has diverged."""
        exact = "" if self.computed.startswith("fp32") else ", or --set run.precision=fp32"
        return f"try a lower --lr than {self.lr:g}{exact}"

    def reopen(self, steps_per_epoch: int, steps: int) -> None:
        """Reopen the last epoch if a shorter run cut it short and the run is longer now.

        If it was the best epoch, forget that: it has not ended.
        """
        if self.step >= min(self.epochs * steps_per_epoch, steps):
            return
        row = self.rows.pop()
        self.loss_sum = self.ended.get("loss_sum", self.loss_sum)
        self.aux_sums = self.ended.get("aux_sums", self.aux_sums)
        self.seen = self.ended.get("seen", self.seen)
        if self.best_epoch == row["epoch"]:
            self.best_accuracy, self.best_epoch = -1.0, 0

    def add_losses(self, loss_sum: float, aux_sums: list[float], images: int) -> None:
        """Add the sums of the losses of a step's images to those of the epoch."""
        self.loss_sum += loss_sum
        self.aux_sums = [a + b for a, b in zip(self.aux_sums or [0.0] * len(aux_sums), aux_sums, strict=True)]
        self.seen += images

    def mean_losses(self) -> dict[str, float]:
        """Return the mean losses of the epoch, of the network and its auxiliary classifiers, by their keys in a row."""
        images = max(1, self.seen)
        aux = {f"aux{n}_loss": total / images for n, total in enumerate(self.aux_sums, 1)}
        return {"loss": self.loss_sum / images, **aux}

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Record an epoch's metrics, and reset the sums for the next one."""
        self.rows.append(row)
        self.ended = {"loss_sum": self.loss_sum, "aux_sums": self.aux_sums, "seen": self.seen}
        self.loss_sum, self.aux_sums, self.seen = 0.0, [], 0

    @property
    def has_best(self) -> bool:
        """Whether there are weights of a best epoch: not before the first one, nor if they were lost."""
        return self.best_accuracy >= 0

    def update_best(self, row: Mapping[str, Any]) -> bool:
        """Record an epoch, given its row of metrics, as the best if it is; return whether it is."""
        if _rank(row) <= (self.best_accuracy, -self.best_loss):
            return False
        self.best_accuracy, self.best_loss, self.best_epoch = row["val_accuracy"], row["val_loss"], row["epoch"]
        return True

    def has_stalled(self, patience: int | None) -> bool:
        """Return whether the last `patience` epochs were no better than an earlier one.

        Epoch 0, the fitted head, does not count: accuracy may fall in the first steps before it rises.
        """
        if patience is None or not self.rows:
            return False
        return self.epochs - int(max(self.rows, key=_rank)["epoch"]) >= patience

    @staticmethod
    def read(state: Mapping[str, Any]) -> Progress:
        """Return the progress that a checkpoint's state holds under "progress".

        Raises:
            ArtefactError: it was written by another version.
        """
        try:
            return Progress(**state["progress"])
        except (KeyError, TypeError) as error:
            raise ArtefactError(f"the checkpoint was written by another version of cnn-tl: {error}") from error


def _rank(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the sort key of epochs: higher accuracy, then lower loss."""
    return row["val_accuracy"], -row["val_loss"]
