"""The tests marked `gpu`, in a process that sees the GPUs which are hidden from the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gpus
import pytest
import torch

TESTS = Path(__file__).parent


def test_here_and_in_child_processes_there_is_none() -> None:
    assert torch.cuda.device_count() == 0
    assert not torch.cuda.is_available()
    assert not _is_there_one(dict(os.environ))


@pytest.mark.timeout(900)
def test_those_that_need_a_gpu(tmp_path: Path) -> None:
    if not _is_there_one(gpus.environment()):
        pytest.skip("there is no GPU here")
    files = [str(path) for path in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "gpu and not soak", "-p", "no:cacheprovider", "--durations=10"]
    spread = ["-n", "3", "--dist=load", f"--basetemp={tmp_path / 'gpu'}"]  # each process takes half a GB of the GPU
    done = subprocess.run(
        [*command, *spread, *files], cwd=TESTS.parent, env=gpus.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _is_there_one(environment: dict[str, str]) -> bool:
    if torch.version.cuda is None and torch.version.hip is None:
        return False
    ask = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", ask], env=environment).returncode == 0
