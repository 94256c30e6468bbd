"""The time that a plan expects of a training loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cnn_tl.core.device import Precision
from cnn_tl.training import estimate
from cnn_tl.training.modes import finetune

READING = 0.02


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function from a device to the seconds of an image in a step and in validation; a pass takes 0.001."""
    measured: list[tuple[Precision, int]] = []

    def measure(network: Any, precision: Precision, images: int) -> float:
        measured.append((precision, images))
        return 0.001

    def of(device: str, *, sources: str = "auto", is_decoded: bool = False, graph: bytes | None = None) -> Any:
        settings = SimpleNamespace(precision="fp32", sources=sources)
        run: Any = SimpleNamespace(recipe=SimpleNamespace(run=settings), augmentation=object())
        info = SimpleNamespace(preprocessing=SimpleNamespace(height=224, width=224), num_features=8)
        remembered = SimpleNamespace(graph=graph)
        network: Any = SimpleNamespace(device=torch.device(device), info=info, remembered=remembered)
        measured.clear()
        found = finetune._seconds_of_an_image(run, network, "fp32", READING, is_decoded=is_decoded)
        return found, list(measured)

    monkeypatch.setattr(estimate, "seconds_per_image", measure)
    monkeypatch.setattr(estimate, "onnx_seconds_per_image", lambda network, graph: 0.5)
    return of


def test_on_a_cpu_reading_takes_the_cores_of_the_step(seconds: Any) -> None:
    (step, validation), measured = seconds("cpu")
    assert step == pytest.approx(finetune.STEP_COST["cpu"] * 0.001 + READING)
    assert validation == READING
    assert measured == [("fp32", 4)]  # once, as both need the same precision


def test_on_a_cpu_validation_is_measured_in_onnxruntime(seconds: Any) -> None:
    (step, validation), _ = seconds("cpu", graph=b"graph")
    assert step == pytest.approx(finetune.STEP_COST["cpu"] * 0.001 + READING)
    assert validation == 0.5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, finetune.STEP_COST["cuda"] * 0.001),  # the GPU draws the views
        ({"sources": "threads"}, READING),
        ({"is_decoded": True}, READING),
    ],
)
def test_a_gpu_waits_only_for_what_it_does_not_do_itself(
    seconds: Any, options: dict[str, Any], expected: float
) -> None:
    (step, _), measured = seconds("cuda", **options)
    assert step == pytest.approx(expected)
    assert measured == [("fp32", 256)]  # the batch of the engine, whatever that of a step is
