"""MLflow: a SQLite store in RUN/mlflow, or wherever MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.telemetry import forbid_telemetry
from cnn_tl.tracking.flat_rows import Scalar, by_step, numbers
from cnn_tl.tracking.tracker import Rows, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "cnn-tl"
MOST_PARAMS = 100
"""The limit of MLflow for one call."""

RESULT = "result."

ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""Defaults that keep a server that is down from costing more than seconds."""


class MLflow:
    """Logs the recipe as parameters, rows as metrics by step, the numbers of the result, and paths as tags."""

    def __init__(self, tracked_run: TrackedRun) -> None:
        folder = tracked_run.run / "mlflow"
        uri = os.environ.get("MLFLOW_TRACKING_URI") or _own_store(folder)
        self._client = _client(uri)
        begun = _begun(folder, uri)
        self._run_id = begun or self._begin(tracked_run, folder)
        self._written: set[int] = set()
        if begun is None:
            files.write_json(folder / "run.json", {"tracking_uri": uri, "run_id": self._run_id})
            self._log_params(tracked_run.params)
        else:
            self._written = self._steps()
            self._client.update_run(self._run_id, status="RUNNING")

    def rows(self, rows: Rows) -> None:
        """Log the rows of steps that the store does not hold."""
        for step, row in by_step(rows).items():
            if step not in self._written:
                self._log_metrics(numbers(row), step)
                self._written.add(step)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Log the numbers of the result, such as `result.accuracy`."""
        counts = {name: value for name, value in result.items() if name != "per_class"}
        values = {f"{RESULT}{name}": value for name, value in numbers(counts).items()}
        self._log_metrics(values, step=max(self._written, default=0))

    def close(self, *, finished: bool) -> None:
        """Set the status of the run; one that was stopped is RUNNING again when it is resumed."""
        self._client.set_terminated(self._run_id, status="FINISHED" if finished else "KILLED")

    def _begin(self, tracked_run: TrackedRun, folder: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        own = "MLFLOW_TRACKING_URI" not in os.environ
        if experiment is not None:
            number = experiment.experiment_id
        else:
            number = self._client.create_experiment(name, (folder / "artifacts").resolve().as_uri() if own else None)
        tags = {
            "mlflow.source.name": "cnn-tl",
            "cnn_tl.run": printable(tracked_run.run.resolve()),
            "cnn_tl.model": printable(tracked_run.run.resolve() / "model"),
        }
        run: str = self._client.create_run(number, run_name=printable(tracked_run.run.name), tags=tags).info.run_id
        return run

    def _log_params(self, params: Mapping[str, Scalar]) -> None:
        from mlflow.entities import Param

        entries = [Param(_key(name), str(value)) for name, value in params.items()]
        for start in range(0, len(entries), MOST_PARAMS):
            self._client.log_batch(self._run_id, params=entries[start : start + MOST_PARAMS])

    def _log_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run_id, [Metric(_key(name), value, now, step) for name, value in values.items()])

    def _steps(self) -> set[int]:
        """Return the steps with metrics in the store."""
        names = [name for name in self._client.get_run(self._run_id).data.metrics if not name.startswith(RESULT)]
        return {metric.step for name in names for metric in self._client.get_metric_history(self._run_id, name)}


def _own_store(folder: Path) -> str:
    path = (folder / "mlflow.db").resolve().as_posix()
    if "?" in path:
        raise ValueError(f"the path of a store must not contain a question mark ({path})")
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"


def _client(uri: str) -> MlflowClient:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    forbid_telemetry()
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it logs every table that it creates
    return MlflowClient(tracking_uri=uri)


def _begun(folder: Path, uri: str) -> str | None:
    """Return the id of the run that an earlier process has begun in this store, if any."""
    try:
        begun = files.read_json(folder / "run.json")
    except ArtefactError:
        return None
    return str(begun["run_id"]) if begun["tracking_uri"] == uri else None


def _key(name: str) -> str:
    """Return a name that MLflow accepts: letters, digits and a few signs."""
    return re.sub(r"[^\w.\- /]", "_", name)
