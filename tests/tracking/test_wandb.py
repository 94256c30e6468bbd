from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cnn_tl.tracking import tracked

ROWS = [{"epoch": n, "step": 10 * n, "loss": 1 / n} for n in range(1, 4)]
SETTINGS = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_BASE_URL")


@pytest.fixture(autouse=True)
def nobody_has_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "NETRC", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name.lower()))
    monkeypatch.setenv("WANDB_SILENT", "true")


def track(run: Path, *told: list[dict[str, Any]], result: dict[str, Any] | None = None) -> None:
    with tracked(["wandb"], run, {"mode": "finetune", "train": {"lr": 3e-4}}, pytest.fail) as tracking:
        for rows in told:
            tracking.rows(rows)
        if result is not None:
            tracking.finish(result)


class Service:
    """Stands for the package where it is not installed: takes its documented calls, and keeps what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, logged_in: bool) -> None:
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self.summary: dict[str, Any] = {}
        self.codes: list[int] = []
        package: Any = types.ModuleType("wandb")
        package.login = lambda *, prompt, verify: logged_in
        package.Settings = dict
        package.init = self._init
        monkeypatch.setitem(sys.modules, "wandb", package)
        monkeypatch.delitem(sys.modules, "cnn_tl.tracking.wandb", raising=False)

    def _init(self, **settings: Any) -> Service:
        self.begun.append(settings)
        return self

    def log(self, values: Mapping[str, float], *, step: int, commit: bool) -> None:
        self.logged.append((step, values))

    def finish(self, exit_code: int) -> None:
        self.codes.append(exit_code)


def test_a_resumed_run_goes_on_under_its_id_and_logs_no_row_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(monkeypatch, logged_in=False)
    track(tmp_path, ROWS[:1], ROWS[:2])
    track(tmp_path, ROWS[:1], ROWS, result={"accuracy": 0.5, "per_class": {"a": (1, 2)}})
    first, second = service.begun
    assert (first["mode"], first["project"]) == ("offline", "cnn-tl")
    assert first["id"] == second["id"]
    assert first["config"] == {"mode": "finetune", "train.lr": 3e-4}
    assert [step for step, _ in service.logged] == [10, 20, 30]
    assert service.logged[0][1] == {"epoch": 1.0, "loss": 1.0}
    assert service.summary == {"result.accuracy": 0.5}
    assert service.codes == [1, 0]


@pytest.mark.parametrize(("given", "logged_in", "mode"), [(None, True, "online"), ("disabled", True, "disabled")])
def test_online_only_for_who_has_logged_in_and_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, logged_in: bool, mode: str
) -> None:
    if given:
        monkeypatch.setenv("WANDB_MODE", given)
    service = Service(monkeypatch, logged_in)
    track(tmp_path, ROWS)
    assert service.begun[0]["mode"] == mode


@pytest.mark.filterwarnings("ignore")
def test_the_package_itself_writes_files_that_can_be_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="the extra cnn-tl[wandb] is not installed")
    monkeypatch.delitem(sys.modules, "cnn_tl.tracking.wandb", raising=False)
    track(tmp_path, ROWS[:2])
    track(tmp_path, ROWS, result={"accuracy": 0.5})
    state = json.loads((tmp_path / "wandb" / "run.json").read_text())
    files = list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert {path.name for path in files} == {f"run-{state['id']}.wandb"}
    assert state["step"] == 30
    assert all(path.stat().st_size for path in files)
