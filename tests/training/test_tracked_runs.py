"""Whole runs with what they leave to look at: metrics.csv, curves.png, TensorBoard's files."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from whole_runs import StopAfter, assert_same_weights

from cnn_tl import tracking
from cnn_tl.core.errors import ResourceError, Stopped
from cnn_tl.core.progress import Observer
from cnn_tl.recipe import Recipe, to_yaml
from cnn_tl.training.run import plan, train

pytestmark = pytest.mark.usefixtures("curves")

Make = Callable[..., Recipe]


def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_has_its_curves_and_a_resumed_one_each_row_once(recipe: Make, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made, run = recipe("finetune", run={"track": "tensorboard"}), tmp_path / "run"
    with pytest.raises(Stopped):
        train(made, run, observer=StopAfter("epoch 2", 8))
    first_image = (run / "curves.png").read_bytes()
    assert [row["epoch"] for row in lines(run)] == [0, 1]
    train(made, run, resume=True)
    assert (run / "curves.png").read_bytes() != first_image
    assert [row["epoch"] for row in table(run)] == ["0", "1", "2"]
    assert [float(row["val_loss"]) for row in table(run)] == [row["val_loss"] for row in lines(run)]

    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val_accuracy")] == [row["step"] for row in lines(run)]
    train(recipe("finetune"), tmp_path / "untracked")
    assert_same_weights(run, tmp_path / "untracked")


@pytest.mark.usefixtures("graph_is_known")
def test_mode_freeze_has_a_table_of_one_row_no_curves_and_never_loads_matplotlib(recipe: Make, tmp_path: Path) -> None:
    (tmp_path / "freeze.yaml").write_text(to_yaml(recipe()))
    code = (
        "import sys, pathlib, cnn_tl\nfrom cnn_tl.recipe import load\n"
        "cnn_tl.train(load(pathlib.Path(sys.argv[1])), sys.argv[2])\nprint('matplotlib' in sys.modules)"
    )
    command = [sys.executable, "-c", code, tmp_path / "freeze.yaml", tmp_path / "run"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
    [row], [line] = table(tmp_path / "run"), lines(tmp_path / "run")
    assert float(row["val_accuracy"]) == line["val_accuracy"]
    assert set(row) >= {key for key, value in line.items() if not isinstance(value, dict)}
    assert not (tmp_path / "run" / "curves.png").exists()


def test_a_image_that_cannot_be_drawn_is_not_worth_the_run(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    warnings: list[str] = []
    observer = Observer()
    observer.warn = warnings.append  # type: ignore[method-assign]
    result = train(recipe("finetune", train={"epochs": 1}), tmp_path / "run", observer=observer)
    assert result.images == 9
    assert [text for text in warnings if "learning curves are not drawn" in text]
    assert not (tmp_path / "run" / "curves.png").exists()


def test_a_missing_tracker_is_refused_before_anything_is_read(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    made = recipe(run={"track": ["wandb"]}, data={"path": str(tmp_path / "absent")})
    for work in (plan, train):
        with pytest.raises(ResourceError, match="pip install wandb"):
            work(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()
