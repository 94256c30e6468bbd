"""R1, R3, R19: real processes, killed, stopped, started twice; nothing is lost, the weights come out identical."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

MODES = {
    "finetune": ("--mode", "finetune", "--epochs", "40", "--batch-size", "4", "--set", "train.warmup=0.2"),
    "freeze": ("--mode", "freeze", "--batch-size", "4"),
}
SECONDS_OF_WORK = {"finetune": 4.0, "freeze": 0.5}
PATIENCE = 120.0
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def data(tmp_path: Path, make_pictures: Callable[..., Path]) -> Path:
    return make_pictures(tmp_path / "pictures", {"ash": 40, "birch": 40})


@pytest.fixture
def start(tmp_path: Path, data: Path, tiny_weights: Path) -> Start:
    """Start `cnn-tl train` on the pictures in a process of its own."""

    def begin(run: str, mode: str, *more: str) -> subprocess.Popen[str]:
        command = [
            sys.executable, "-m", "cnn_tl", "train", str(data), "--model", "test_resnet", "--image-size", "64",
            "--weights", str(tiny_weights), "--device", "cpu", "--output", str(tmp_path / run), *MODES[mode], *more,
        ]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return begin


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something to appear, or for the process to end."""
    deadline = time.monotonic() + PATIENCE
    while not there() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def written(path: Path) -> int:
    """Return when a file was written, 0 if it is not there; a run writes its recipe just before its work begins."""
    return path.stat().st_mtime_ns if path.exists() else 0


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def kill_and_resume(start: Start, run: Path, mode: str, kills: int, draw: random.Random) -> int:
    """Kill the run at random moments after its work began, then let it finish; return how many kills landed."""
    landed, more = 0, ()
    for attempt in range(kills):
        process = start(run.name, mode, "--workers", str(1 + attempt % 3), *more)
        before = written(run / "recipe.yaml")
        wait_until(lambda before=before: written(run / "recipe.yaml") != before, process)
        time.sleep(draw.uniform(0, SECONDS_OF_WORK[mode]))
        process.kill()
        process.communicate()
        landed += process.returncode == -signal.SIGKILL
        more = ("--resume",) if (run / "recipe.yaml").exists() else ()
    finish(start(run.name, mode, "--workers", "2", *more))
    return landed


def check_kills(start: Start, tmp_path: Path, mode: str, kills: int, seed: int) -> None:
    finish(start("undisturbed", mode))
    landed = kill_and_resume(start, tmp_path / "killed", mode, kills, random.Random(seed))
    assert landed > 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "undisturbed")
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_killed_three_times_and_the_same_bits(start: Start, tmp_path: Path) -> None:
    check_kills(start, tmp_path, "finetune", 3, seed=0)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("mode", sorted(MODES))
def test_killed_a_hundred_times_and_the_same_bits(start: Start, tmp_path: Path, mode: str, seed: int) -> None:
    check_kills(start, tmp_path, mode, 4, seed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_and_a_second_process_is_refused(start: Start, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    process = start("run", "finetune")
    wait_until(lambda: bool(list(run.rglob("step-*"))), process)
    if number == signal.SIGINT:
        second = start("run", "finetune", "--resume")
        _, refusal = second.communicate(timeout=PATIENCE)
        assert second.returncode == 5
        assert "another process is training in" in refusal
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number
    last = err.strip().splitlines()[-1]
    assert re.fullmatch(rf"stopped; go on with: cnn-tl train --resume --output {re.escape(str(run))}", last)
    assert not list(run.rglob("*.tmp"))
    assert "Traceback" not in err
