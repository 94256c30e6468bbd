"""Experiment trackers: TensorBoard, MLflow and Weights & Biases, each in one file that imports its package.

They get the rows of metrics.jsonl, which training/ writes in any case; a tracker that fails never stops a run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_tl.core.choices import TrackerName
from cnn_tl.core.errors import ResourceError
from cnn_tl.tracking.flat_rows import flatten
from cnn_tl.tracking.tracker import Opener, TrackedRun, Tracker, Tracking

__all__ = ["TRACKERS", "Tracking", "require_trackers", "tracked"]


def _open_tensorboard(tracked_run: TrackedRun) -> Tracker:
    from cnn_tl.tracking.tensorboard import TensorBoard

    return TensorBoard(tracked_run)


def _open_mlflow(tracked_run: TrackedRun) -> Tracker:
    from cnn_tl.tracking.mlflow import MLflow

    return MLflow(tracked_run)


def _open_wandb(tracked_run: TrackedRun) -> Tracker:
    from cnn_tl.tracking.wandb import WeightsAndBiases

    return WeightsAndBiases(tracked_run)


TRACKERS: dict[TrackerName, Opener] = {
    "tensorboard": _open_tensorboard,
    "mlflow": _open_mlflow,
    "wandb": _open_wandb,
}
"""Name -> function that opens the tracker and imports its package, which has the same name."""


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse a tracker whose package is missing, without importing any.

    Raises:
        ResourceError: one line with the command that installs it.
    """
    for name in names:
        needed: list[str] = [name]
        if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
            needed += ["sqlalchemy", "alembic"]  # for its database; mlflow-skinny does not depend on them
        for package in needed:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:  # without an origin it is only a folder of that name
                raise ResourceError(
                    f"run.track: {name} needs the package {package}, which is not installed; pip install {name}"
                )


@contextlib.contextmanager
def tracked(
    names: Sequence[TrackerName],
    run: Path,
    recipe: Mapping[str, Any],
    warn: Callable[[str], None],
    *,
    tracking: Tracking | None = None,
) -> Iterator[Tracking]:
    """Open the trackers that the recipe names, and close them at the end, whether the run succeeds or not.

    Args:
        run: the run folder.
        recipe: the resolved recipe as a tree.
        warn: called once for each tracker that fails; its error is not raised.
        tracking: what the trackers are opened in; by default a new one.
    """
    tracking = Tracking(warn) if tracking is None else tracking
    tracked_run = TrackedRun(run, {name: value for name, value in flatten(recipe).items() if value is not None})
    try:
        for name in names:
            tracking.open(name, TRACKERS[name], tracked_run)
        yield tracking
    finally:
        tracking.close()
