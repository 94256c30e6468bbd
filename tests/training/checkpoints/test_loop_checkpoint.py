"""States are written by a thread: each as it was when it was saved, in order, and all before the loop ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import nn

from cnn_tl.core.errors import DivergedError, ResourceError
from cnn_tl.core.processes import ALONE
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.loop_checkpoint import Snapshots
from cnn_tl.training.checkpoints.train_state import Progress


class Held:
    """Lets the thread that writes begin only when the test says so."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.written: list[str] = []
        self._save = checkpoint.save

    def save(self, target: Path, point: checkpoint.Checkpoint) -> None:
        assert self.go_on.wait(20)
        self._save(target, point)
        self.written.append(target.name)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held()
    monkeypatch.setattr(checkpoint, "save", made.save)
    yield made
    made.go_on.set()


class Training:
    """A model of one weight whose value is the number of its steps, and the snapshots of it."""

    def __init__(self, folder: Path, *, ema: bool = False) -> None:
        self.model, self.progress = nn.Linear(1, 1, bias=False), Progress(lr=0.1)
        self.average = ModelEmaV3(self.model, 0.5) if ema else None
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.model.weight.grad = torch.zeros(1, 1)
        self.optimizer.step()
        self.logged: list[int] = []
        self.checkpoints = folder / "checkpoints"
        run: Any = SimpleNamespace(
            world=ALONE,
            folder=SimpleNamespace(checkpoints=self.checkpoints),
            log=lambda rows: self.logged.append(len(rows)),
        )
        self.snapshots = Snapshots(run, self.progress, self.model, self.optimizer, self.average, 0.0)
        self.step(0)

    def step(self, number: int) -> None:
        self.progress.step = number
        with torch.no_grad():
            self.model.weight.fill_(number)
        if self.average:
            self.average.module.weight.data.fill_(number / 2)

    def end_epoch(self, *, best: bool) -> None:
        row = {"epoch": self.progress.epochs + 1, "step": self.progress.step, "val_loss": 1.0}
        row["val_accuracy"] = max(0.5, self.progress.best_accuracy) + (0.1 if best else -0.1)
        self.progress.end_epoch(row)
        if self.progress.update_best(row):
            evaluated = self.average.module if self.average else self.model
            self.snapshots.save_best(evaluated, torch.full((1, 1), float(self.progress.step)), row)
        self.snapshots.save(epoch_ended=True)

    def weight(self, folder: str, group: str = "model") -> float:
        return float(checkpoint.load(self.checkpoints / folder).tensors[group]["weight"])


def test_what_is_written_is_the_state_when_it_was_saved(tmp_path: Path, held: Held) -> None:
    training = Training(tmp_path)
    training.step(3)
    with training.snapshots.written_at_the_end():
        training.end_epoch(best=True)
        assert training.logged == [1]
        assert held.written == []
        training.step(4)
        held.go_on.set()
    assert held.written == ["best-00001", "step-00000003-00001"]
    assert training.weight("step-00000003-00001") == training.weight("best-00001") == 3
    state = checkpoint.load(training.checkpoints / "step-00000003-00001").state
    assert (state["progress"]["step"], len(state["progress"]["rows"])) == (3, 1)


def test_the_best_weights_are_kept_until_a_checkpoint_knows_better_ones(tmp_path: Path, held: Held) -> None:
    training = Training(tmp_path)
    with training.snapshots.written_at_the_end():
        held.go_on.set()
        for step, best in enumerate((True, False, True), 1):
            training.step(step)
            training.end_epoch(best=best)
        weights, logits = training.snapshots.best(training.model)
    assert sorted(path.name for path in training.checkpoints.iterdir()) == [
        "best-00003",
        "step-00000002-00002",
        "step-00000003-00003",
    ]
    assert held.written[-2:] == ["best-00003", "step-00000003-00003"]
    assert logits is not None
    assert float(weights["weight"]) == float(logits) == 3


def test_the_fitted_head_is_written_before_the_first_step_is_saved(tmp_path: Path, held: Held) -> None:
    training = Training(tmp_path)
    with training.snapshots.written_at_the_end():
        training.progress.start = {"epoch": 0, "step": 0, "val_accuracy": 0.5, "val_loss": 1.0}
        training.progress.update_best(training.progress.start)
        training.snapshots.save_fitted_head(training.model, torch.zeros(1, 1), training.progress.start)
        training.step(7)
        held.go_on.set()
        training.snapshots.save()
    assert held.written == ["best-00000", "step-00000007-00000"]
    assert training.logged == []
    assert training.weight("best-00000") == 0
    assert training.weight("step-00000007-00000") == 7


def test_averaged_weights_are_beside_the_model_s(tmp_path: Path, held: Held) -> None:
    training = Training(tmp_path, ema=True)
    held.go_on.set()
    with training.snapshots.written_at_the_end():
        training.step(2)
        training.end_epoch(best=True)
    folder = "step-00000002-00001"
    assert (training.weight(folder), training.weight(folder, "ema"), training.weight("best-00001")) == (2, 1, 1)


def test_an_error_of_the_thread_is_raised_by_the_next_save_or_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise ResourceError("no space")

    monkeypatch.setattr(checkpoint, "save", full)
    training = Training(tmp_path)
    training.snapshots.save()
    with pytest.raises(ResourceError, match="no space"):
        training.snapshots.save()
    with pytest.raises(ResourceError, match="no space"), training.snapshots.written_at_the_end():
        training.snapshots.save()


def test_after_another_error_the_state_is_written_all_the_same(tmp_path: Path, held: Held) -> None:
    training = Training(tmp_path)
    training.step(5)

    def diverge() -> None:
        with training.snapshots.written_at_the_end():
            training.snapshots.save()
            training.model.weight.data.fill_(float("inf"))
            held.go_on.set()
            training.snapshots.save()

    with pytest.raises(DivergedError):
        diverge()
    assert training.weight("step-00000005-00000") == 5
