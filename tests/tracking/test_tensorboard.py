from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnn_tl.tracking import tracked

pytest.importorskip("tensorboard", reason="the extra cnn-tl[tensorboard] is not installed")

ROWS = [{"epoch": n, "step": 10 * n, "loss": 1 / n, "val_accuracy": 0.5 + n / 100} for n in range(1, 5)]


def track(run: Path, *told: list[dict[str, Any]], result: dict[str, Any] | None = None) -> None:
    with tracked(["tensorboard"], run, {"mode": "finetune", "train": {"lr": 3e-4}}, pytest.fail) as tracking:
        for rows in told:
            tracking.rows(rows)
        if result is not None:
            tracking.finish(result)


def read(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def steps(run: Path, tag: str) -> list[int]:
    return [event.step for event in read(run).Scalars(tag)]


def texts(run: Path, tag: str) -> list[str]:
    return [event.tensor_proto.string_val[0].decode() for event in read(run).Tensors(tag)]


def test_its_own_reader_finds_every_row_the_recipe_and_the_result(tmp_path: Path) -> None:
    track(tmp_path, ROWS[:1], ROWS[:2], ROWS, result={"accuracy": 0.54, "facts": {"best_epoch": 4}})
    events = read(tmp_path)
    assert set(events.Tags()["scalars"]) == {"epoch", "loss", "val_accuracy"}
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10 * n, pytest.approx(1 / n)) for n in range(1, 5)]
    assert "| train.lr | 0.0003 |" in texts(tmp_path, "recipe")[0]
    assert "| facts.best_epoch | 4 |" in texts(tmp_path, "result")[0]


def test_a_resumed_run_writes_no_row_twice(tmp_path: Path) -> None:
    track(tmp_path, ROWS[:2])
    track(tmp_path, ROWS[:1], ROWS[:3], ROWS)  # a checkpoint before the last row that was written
    assert steps(tmp_path, "val_accuracy") == [10, 20, 30, 40]
    assert len(texts(tmp_path, "recipe")) == 1


def test_a_kill_in_the_middle_of_a_row_loses_none(tmp_path: Path) -> None:
    track(tmp_path, ROWS[:1], ROWS[:2])
    [file] = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    track(tmp_path, ROWS[:2], ROWS)
    assert steps(tmp_path, "loss") == [10, 20, 30, 40]


def test_it_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom cnn_tl.tracking import tracked\n"
        "with tracked(['tensorboard'], pathlib.Path(sys.argv[1]), {}, sys.exit) as tracking:\n"
        "    tracking.rows([{'val_accuracy': 1.0}])\n"
        "print([name for name in ('torch', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert steps(tmp_path, "val_accuracy") == [0]
