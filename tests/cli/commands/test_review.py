"""`cnn-tl review`: what is said, the exit codes, Ctrl-C; tests/serving/review has the rest."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import light_only
import pytest
from examined_folder import reviewing, write_examined_folder

from cnn_tl.cli import completion
from cnn_tl.core.errors import Stopped
from cnn_tl.serving import sockets
from cnn_tl.serving.review.server import Server

Cli = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_examined_folder(tmp_path)


def decide(url: str, **decision: Any) -> Any:
    request = urllib.request.Request(
        f"{url}decisions", json.dumps(decision).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return json.load(answer)


def test_a_decision_and_ctrl_c(folder: Path) -> None:
    with reviewing(folder) as (process, url):
        assert decide(url, suspect=4, choice="exclude")["progress"]["decided"] == 1
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, f"1 of 9 suspects decided; cnn-tl review {folder} goes on\n")
    assert out == (
        "train on the data as corrected:\n"
        f"  cnn-tl train {folder.parent / 'data'} --set data.exclude={folder / 'exclude.txt'} "
        f"--set data.relabel={folder / 'relabel.csv'}\n"
    )


def test_it_needs_only_the_light_installation(folder: Path) -> None:
    command = light_only.command(["review", folder, "--port", 0])
    with reviewing(folder, command) as (process, url):
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as page:
            assert b"Review of" in page.read()
        assert decide(url, suspect=4, choice="exclude")["progress"]["decided"] == 1
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "130"


def test_nothing_to_review(cli: Cli, folder: Path) -> None:
    for name in ("twins.csv", "labels.csv", "outliers.csv"):
        (folder / name).unlink()
    done = cli("review", folder)
    assert (done.code, done.out) == (0, f"{folder} names no suspects: there is nothing to review\n")
    assert not (folder / "decisions.jsonl").exists()


def test_refusals(cli: Cli, folder: Path, tmp_path: Path) -> None:
    done = cli("review", tmp_path / "absent")
    assert (done.code, "holds no summary.json" in done.err) == (4, True)
    with sockets.bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        done = cli("review", folder, "--port", port)
    assert (done.code, f"port {port} of 127.0.0.1 is in use" in done.err) == (5, True)
    with reviewing(folder):
        done = cli("review", folder, "--port", 0)
    assert (done.code, "is being reviewed already" in done.err) == (5, True)


@pytest.mark.parametrize(
    ("display", "flags", "opens"), [(":0", [], True), (":0", ["--no-browser"], False), ("", [], False)]
)
def test_a_browser_is_opened_where_there_is_a_display(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, display: str, flags: list[str], opens: bool
) -> None:
    asked: list[str] = []

    def run(self: Server, on_ready: Callable[[], object]) -> None:
        on_ready()
        raise Stopped("stopped", 15)

    monkeypatch.setattr(Server, "run", run)
    monkeypatch.setattr(webbrowser, "open", asked.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    done = cli("review", folder, "--port", 0, *flags)
    assert (done.code, done.err) == (143, f"0 of 9 suspects decided; cnn-tl review {folder} goes on\n")
    assert asked == ([done.out.split(" at ")[1].partition(";")[0]] if opens else [])
    assert "cnn-tl train" not in done.out


def test_folders_that_doctor_wrote_are_completed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert completion.examined_folders("fi") == ["findings"]
    assert completion.examined_folders("d") == []
    assert completion.examined_folders(f"{folder.parent}/") == [str(folder)]
