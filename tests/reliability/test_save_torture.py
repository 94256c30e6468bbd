"""A process that only saves checkpoints is killed again and again: the newest one is whole and never goes back."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from cnn_tl.core import files
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork"),
    pytest.mark.usefixtures("fsync"),
]


def of_step(step: int) -> Checkpoint:
    tensors = {"weight": torch.full((32, 32), float(step)), "bias": torch.full((32,), float(-step))}
    return Checkpoint({"model": tensors, "optimizer": {"moment": tensors["weight"] / 2}}, {"step": step})


def best_of(folder: Path, step: int) -> Path:
    return folder / f"{checkpoint.BEST}-{step:05d}"


def save_for_ever(folder: Path, step: int) -> None:
    """In a process of its own, save every step from here on, as the loop does at the end of each epoch."""
    try:
        while True:
            step += 1
            checkpoint.save(best_of(folder, step), of_step(step))
            checkpoint.save_step(folder, step, step, of_step(step))
            checkpoint.remove_other_best(best_of(folder, step))
    finally:
        os._exit(1)  # whatever went wrong: the tests' own process must not go on twice


def newest_of(folder: Path) -> int:
    """Return the step of the newest checkpoint after comparing its whole content with what was saved."""
    found = checkpoint.load_newest(folder, lambda warning: pytest.fail(f"a damaged checkpoint: {warning}"))
    if found is None:
        return 0
    step: int = found.state["step"]
    expected = of_step(step)
    for group, tensors in expected.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[group][name], tensor)
    return step


@pytest.mark.parametrize(
    "kills", [25, pytest.param(500, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])], ids=["short", "long"]
)
def test_no_kill_spoils_a_checkpoint(tmp_path: Path, kills: int) -> None:
    chance, step, advanced = random.Random(2), 0, 0
    for _ in range(kills):
        child = os.fork()
        if not child:
            save_for_ever(tmp_path, step)
        time.sleep(chance.uniform(0.005, 0.15))
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child ended by itself"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        after = newest_of(tmp_path)
        assert after >= step
        advanced += after > step
        step = after
        if step:  # every epoch is the best here, so this is what the run would end with
            assert checkpoint.load(best_of(tmp_path, step)).state["step"] == step
        files.remove_temporaries(tmp_path)  # as a resumed run does
    assert advanced, "every kill came before anything was saved"
