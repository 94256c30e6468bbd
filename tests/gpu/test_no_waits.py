"""A training step launches its work and does not wait for the GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from cnn_tl.core.device import waiting_forbidden
from cnn_tl.training.loop.loop import Loop
from cnn_tl.training.result import TrainResult
from cnn_tl.training.step.loss import Step

pytestmark = pytest.mark.gpu

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "recorded, bf16": {"run": {"precision": "bf16"}},
    "not recorded": {"run": {"compile": "never"}},
    "average": {"train": {"ema": 0.9}},
    "mixed": {"augment": {"mixup": 0.4, "cutmix": 1.0}},
    "parts": {"train": {"micro_batch": 3}},
    "weighted": {"train": {"class_weights": "balanced"}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_step_waits(
    run: Callable[..., TrainResult], device: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first steps memory and kernels are found out, and a step is recorded."""
    if device != "cuda":
        pytest.skip("only CUDA tells who waits")
    step, watched = Loop._step, []

    def watch(self: Loop, one: Step) -> None:
        with waiting_forbidden() if self._progress.step > 6 else contextlib.nullcontext():
            step(self, one)
        watched.append(self._progress.step)

    monkeypatch.setattr(Loop, "_step", watch)
    run("run", **SETTINGS[name])
    assert max(watched) > 8
