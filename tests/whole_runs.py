"""Shared by tests of whole runs: an observer that stops a run, and readers and comparisons of its results."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cnn_tl.core.progress import Observer


class StopAfter(Observer):
    """Sends this process a signal once the task has processed a given number of images."""

    def __init__(self, task: str, images: int, number: int = signal.SIGINT) -> None:
        self.task_name, self.left, self.number = task, images, number
        self.current = ""
        self.notes: list[str] = []

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        self.current = task

    def note(self, text: str) -> None:
        self.notes.append(text)

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if self.current.startswith(self.task_name) and self.left > 0:
            self.left -= done
            if self.left <= 0:
                os.kill(os.getpid(), self.number)


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, least: float = 1e-4) -> None:
    """Compare results of different batch sizes, which round differently on some processors."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= least * theirs.abs().max()


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = final_weights(one), final_weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_same_checkpoint(one, other)
    assert_same_evidence(one, other)


def assert_same_evidence(one: Path, other: Path) -> None:
    """Compare what the models of two runs know of held-out images."""
    first, second = (load_file(run / "model" / "evidence.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name].nan_to_num(7), second[name].nan_to_num(7)) for name in first)


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Compare what the two runs would resume from, if both have a loop: the last weights and the optimizer's tensors.

    The model of a run is its best epoch, which may lie before whatever has disturbed the rest.
    """
    paths = newest_checkpoint(one), newest_checkpoint(other)
    if None in paths:
        return
    first, second = (
        {(file.name, name): tensor for file in path.glob("*.safetensors") for name, tensor in load_file(file).items()}
        for path in paths
        if path is not None
    )
    assert first.keys() == second.keys()
    differing = [key for key in first if not torch.equal(first[key], second[key])]
    assert not differing


def newest_checkpoint(run: Path) -> Path | None:
    return max((run / "checkpoints").glob("step-*"), default=None)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without the columns that are times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_per_second", "of_limit")} for row in rows]
