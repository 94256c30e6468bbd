from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, get_args

import pytest

from cnn_tl.core.choices import TrackerName
from cnn_tl.core.errors import ResourceError
from cnn_tl.tracking import TRACKERS, Tracking, require_trackers, tracked
from cnn_tl.tracking.tracker import Rows, TrackedRun


class Recorder:
    """Writes down what it is told, and raises where it is told to."""

    def __init__(self, subject: TrackedRun, fails_at: str = "") -> None:
        self.subject, self.fails_at = subject, fails_at
        self.heard: list[Any] = []
        self._hear("open")

    def rows(self, rows: Rows) -> None:
        self._hear("rows", len(rows))

    def finish(self, result: Mapping[str, Any]) -> None:
        self._hear("finish", result["accuracy"])

    def close(self, *, finished: bool) -> None:
        self._hear("close", finished)

    def _hear(self, what: str, *more: object) -> None:
        self.heard.append((what, *more))
        if what == self.fails_at:
            raise RuntimeError("no\nconnection")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    """Replace all trackers: tensorboard by one that works, mlflow and wandb by ones that fail, soon and late."""
    opened: dict[str, Recorder] = {}
    for name, fails_at in (("tensorboard", ""), ("mlflow", "rows"), ("wandb", "open")):

        def opener(subject: TrackedRun, name: str = name, fails_at: str = fails_at) -> Recorder:
            opened[name] = Recorder(subject, fails_at)
            return opened[name]

        monkeypatch.setitem(TRACKERS, name, opener)  # type: ignore[arg-type]
    return opened


def test_the_recipe_knows_every_tracker() -> None:
    assert set(TRACKERS) == set(get_args(TrackerName))


def test_a_tracker_that_fails_is_warned_of_once_and_the_others_go_on(
    opened: dict[str, Recorder], tmp_path: Path
) -> None:
    warnings: list[str] = []
    with tracked(get_args(TrackerName), tmp_path, {"a": {"b": 1, "c": None}}, warnings.append) as tracking:
        tracking.rows([{"epoch": 1}])
        tracking.rows([{"epoch": 1}, {"epoch": 2}])
        tracking.finish({"accuracy": 0.5})
    assert opened["tensorboard"].heard == [
        ("open",), ("rows", 1), ("rows", 2), ("finish", 0.5), ("close", True)
    ]  # fmt: skip
    assert opened["tensorboard"].subject == TrackedRun(tmp_path, {"a.b": 1})
    assert opened["mlflow"].heard == [("open",), ("rows", 1), ("close", False)]
    assert len(warnings) == 2
    assert all("no connection; the run continues" in text and text.isprintable() for text in warnings)


def test_a_run_that_ends_early_closes_its_trackers_as_not_finished(opened: dict[str, Recorder], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), tracked(["tensorboard"], tmp_path, {}, pytest.fail) as tracking:
        _interrupted(tracking)
    assert opened["tensorboard"].heard[-1] == ("close", False)


def _interrupted(tracking: Tracking) -> None:
    tracking.rows([])
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", get_args(TrackerName))
def test_a_missing_package_is_refused_with_the_command_that_installs_it(
    name: TrackerName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ResourceError, match=f"run.track: {name} .*; pip install {name}$") as caught:
        require_trackers([name])
    assert str(caught.value).isprintable()
    require_trackers([])


def test_a_folder_of_that_name_is_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: ModuleSpec(package, None, is_package=True))
    with pytest.raises(ResourceError):
        require_trackers(["wandb"])


def test_mlflow_needs_no_database_where_a_server_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda package: ModuleSpec(package, None, origin="here") if package == "mlflow" else None,
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ResourceError, match="sqlalchemy"):
        require_trackers(["mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    require_trackers(["mlflow"])


def test_asking_for_a_tracker_imports_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it would raise
    before = set(sys.modules)
    for name in get_args(TrackerName):
        if importlib.util.find_spec(name):
            require_trackers([name])
    assert not {name.partition(".")[0] for name in set(sys.modules) - before} & set(get_args(TrackerName))
