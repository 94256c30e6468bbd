"""Trackers of experiments beside metrics.jsonl: TensorBoard, MLflow, Weights & Biases, each by its own package."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_tl.core.errors import ResourceError
from cnn_tl.recipe.types import TrackerName
from cnn_tl.tracking.table import flatten
from cnn_tl.tracking.tracker import Opener, Subject, Tracker, Tracking

__all__ = ["TRACKERS", "Tracking", "require_trackers", "tracked"]


def _open_tensorboard(subject: Subject) -> Tracker:
    from cnn_tl.tracking.tensorboard import TensorBoard

    return TensorBoard(subject)


def _open_mlflow(subject: Subject) -> Tracker:
    from cnn_tl.tracking.mlflow import MLflow

    return MLflow(subject)


def _open_wandb(subject: Subject) -> Tracker:
    from cnn_tl.tracking.wandb import WeightsAndBiases

    return WeightsAndBiases(subject)


TRACKERS: dict[TrackerName, Opener] = {
    "tensorboard": _open_tensorboard,
    "mlflow": _open_mlflow,
    "wandb": _open_wandb,
}
"""Name -> function that opens the tracker; only it imports the tracker's package, which has the same name."""


def require_trackers(names: Sequence[TrackerName]) -> None:
    """Refuse a tracker whose package is missing, without importing any.

    Raises:
        ResourceError: one line with the command that installs it.
    """
    for name in names:
        needed: list[str] = [name]
        if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
            needed += ["sqlalchemy", "alembic"]  # its database; mlflow-skinny comes without
        for package in needed:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:  # without an origin it is a mere folder of that name
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
    """Open the trackers that the recipe names, and close them in the end, well or not.

    Args:
        run: the run folder.
        recipe: the resolved recipe as a tree.
        warn: told once of each tracker that fails; nothing of that is raised.
        tracking: what the trackers are opened in; by default a new one.
    """
    tracking = Tracking(warn) if tracking is None else tracking
    subject = Subject(run, {name: value for name, value in flatten(recipe).items() if value is not None})
    try:
        for name in names:
            tracking.open(name, TRACKERS[name], subject)
        yield tracking
    finally:
        tracking.close()
