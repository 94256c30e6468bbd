"""Where a training loop is: all that a checkpoint carries beside the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cnn_tl.core.errors import ArtefactError


@dataclass
class Progress:
    """Where training is.

    Attributes:
        step: updates made so far.
        loss_sum, seen: the running mean of the epoch under way. aux_sums: those of the auxiliary classifiers.
        ended: these three as they were at the end of the last epoch, which a longer run may let go on.
        best_accuracy, best_loss, best_epoch: the best epoch so far, see `has_best`; the lower loss decides between
            equals.
        seconds: what the loop has taken, all its starts together.
        lr: the peak learning rate, found or given; 0 until it is known.
        micro_batch: images that pass the network at once, since memory ran out; 0: it has not.
        computed: number format and kind of device, in words.
        receipts: what `Phases` has written down.
        rows: the metrics of the finished epochs.
        start: the metrics of epoch 0, before the first step, where a head was fitted; else nothing.
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
        """The rows of metrics.jsonl: epoch 0, where there is one, then the finished epochs."""
        return [self.start, *self.rows] if self.start else self.rows

    @property
    def epochs(self) -> int:
        """How many epochs have ended."""
        return len(self.rows)

    @property
    def advice(self) -> str:
        """What to do where training diverges."""
        exact = "" if self.computed.startswith("fp32") else ", or --set run.precision=fp32"
        return f"try a lower --lr than {self.lr:g}{exact}"

    def reopen(self, steps_per_epoch: int, steps: int) -> None:
        """Let the last epoch go on, if it was cut short where the run was to end and the run is longer now.

        As the best one it is forgotten: it has not ended yet.
        """
        if self.step >= min(self.epochs * steps_per_epoch, steps):
            return
        row = self.rows.pop()
        vars(self).update(self.ended)
        if self.best_epoch == row["epoch"]:
            self.best_accuracy, self.best_epoch = -1.0, 0

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Write down an epoch's metrics, and begin the sums of the next one."""
        self.rows.append(row)
        self.ended = {"loss_sum": self.loss_sum, "aux_sums": self.aux_sums, "seen": self.seen}
        self.loss_sum, self.aux_sums, self.seen = 0.0, [], 0

    @property
    def has_best(self) -> bool:
        """Whether an epoch's weights are kept: not before one has ended, nor where those of the best were lost."""
        return self.best_accuracy >= 0

    def take_for_best(self, row: Mapping[str, Any]) -> bool:
        """Note that an epoch, as a row of the metrics, is the best so far; return whether it is."""
        if _rank(row) <= (self.best_accuracy, -self.best_loss):
            return False
        self.best_accuracy, self.best_loss, self.best_epoch = row["val_accuracy"], row["val_loss"], row["epoch"]
        return True

    def has_stalled(self, patience: int | None) -> bool:
        """Say whether so many epochs of training have passed without a better one that it is to end.

        The fitted head before them does not count: the first steps from it may well lead down before they lead up.
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
    """Return what orders epochs by how good they are: accuracy, then the lower loss."""
    return row["val_accuracy"], -row["val_loss"]
