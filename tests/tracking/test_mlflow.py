from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cnn_tl.tracking import tracked

for package in ("mlflow", "sqlalchemy", "alembic"):
    pytest.importorskip(package, reason="the extra cnn-tl[mlflow] is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # its own, about what it imports

ROWS = [{"epoch": n, "step": 10 * n, "loss": 1 / n, "val_accuracy": 0.5 + n / 100} for n in range(1, 5)]
RECIPE = {"mode": "finetune", "train": {"lr": 3e-4, "steps": None, "class_weights": {"a & b": 2.0}}}
RESULT = {"accuracy": 0.54, "mode": "finetune", "per_class": {"a & b": (1, 2)}, "facts": {"best_epoch": 4}}


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)


def track(run: Path, *told: list[dict[str, Any]], result: dict[str, Any] | None = None) -> list[str]:
    warnings: list[str] = []
    with tracked(["mlflow"], run, RECIPE, warnings.append) as tracking:
        for rows in told:
            tracking.rows(rows)
        if result is not None:
            tracking.finish(result)
    return warnings


def test_its_own_client_finds_rows_recipe_and_result_each_once_after_a_resume(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run = tmp_path / "runs" / "50 % #1"
    client = MlflowClient(f"sqlite:///{run / 'mlflow' / 'mlflow.db'}")

    assert track(run, ROWS[:1], ROWS[:2]) == []
    [experiment] = client.search_experiments(filter_string="name = 'cnn-tl'")
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.status == "KILLED"

    assert track(run, ROWS[:1], ROWS[:3], ROWS, result=RESULT) == []
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "50 % #1"
    assert found.data.params == {"mode": "finetune", "train.lr": "0.0003", "train.class_weights.a _ b": "2.0"}
    assert found.data.tags["cnn_tl.model"] == str(run / "model")
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(10 * n, 1 / n) for n in range(1, 5)]
    assert set(found.data.metrics) == {"epoch", "loss", "val_accuracy", "result.accuracy", "result.facts.best_epoch"}
    assert found.data.metrics["result.accuracy"] == 0.54
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"], "nothing beside the run folder"


def test_the_user_says_where_and_under_which_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'all.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "pets")
    for name in ("one", "two"):
        assert track(tmp_path / name, ROWS) == []
    client = MlflowClient(uri)
    [experiment] = client.search_experiments(filter_string="name = 'pets'")
    assert {run.info.run_name for run in client.search_runs([experiment.experiment_id])} == {"one", "two"}
    assert not (tmp_path / "one" / "mlflow" / "mlflow.db").exists()


def test_a_server_that_does_not_answer_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    [warning] = track(tmp_path, ROWS, result=RESULT)
    assert warning.startswith("mlflow: ")
    assert warning.isprintable()
