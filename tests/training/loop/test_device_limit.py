"""The device's limit is the speed of the step alone, and measuring it leaves no trace."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from torch import Tensor, nn
from whole_runs import assert_same_weights, metrics

from cnn_tl.core.device import Precision
from cnn_tl.core.errors import ResourceError
from cnn_tl.recipe import Recipe
from cnn_tl.training.loop import device_limit as limits
from cnn_tl.training.loop import loop
from cnn_tl.training.loop.device_limit import device_limit, ready_step, undone
from cnn_tl.training.run import train
from cnn_tl.training.step.gradients import Gradients
from cnn_tl.training.step.loss import targets
from cnn_tl.training.step.update import Update

CPU = torch.device("cpu")
COUNT = 6


class Work:
    """A small network with dropout and BatchNorm, its optimizer, and a step."""

    def __init__(self, optimizer: str = "adamw", precision: Precision = "fp32") -> None:
        torch.manual_seed(0)
        self.notes: list[str] = []
        self.model = timm.create_model("test_resnet", num_classes=3, drop_rate=0.3).train()
        self.optimizer = create_optimizer_v2(self.model, opt=optimizer, lr=0.01, momentum=0.9, weight_decay=0.01)
        self.gradients = Gradients(self.model, _loss, CPU, precision, 0, COUNT + 1, self.notes.append)
        self.x, self.targets_NK = torch.randn(COUNT, 3, 64, 64), targets(torch.arange(COUNT) % 3, 3, 0.0)
        self.step = ready_step(Update(self.model, self.optimizer, self.gradients, 1.0), self.x, self.targets_NK)

    def limit(self, **options: Any) -> float | None:
        step = options.pop("step", self.step)
        return device_limit(step, COUNT, models=[self.model], optimizer=self.optimizer, device=CPU, **options)

    def traces(self) -> dict[str, Any]:
        """Everything that a step changes, copied."""
        state = copy.deepcopy(self.optimizer.state_dict())
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "state": state["state"],
            "groups": state["param_groups"],
            "generator": torch.get_rng_state(),
        }


def _loss(logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_NK, targets_NK, reduction="none")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor):
        return _bits(one) == _bits(other)
    return bool(one == other)


def _bits(tensor: Tensor) -> tuple[object, bytes]:
    return tensor.dtype, tensor.contiguous().numpy().tobytes()


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "momentum", "lamb", "lookahead_adamw", "adafactor"])
def test_a_measurement_leaves_no_trace(optimizer: str, steps_before: int) -> None:
    work, other = Work(optimizer), Work(optimizer)
    for each in (work, other):
        for _ in range(steps_before):
            each.step()
    places = [parameter.data_ptr() for parameter in work.model.parameters()]
    before = work.traces()
    limit = work.limit(seconds=0.2)
    assert limit is not None
    assert limit > 0
    assert _same(work.traces(), before)
    assert [parameter.data_ptr() for parameter in work.model.parameters()] == places
    for _ in range(3):  # and the run goes on as one that measured nothing
        work.step()
        other.step()
    assert _same(work.traces(), other.traces())


def test_the_body_would_leave_traces() -> None:
    """What `undone` undoes is there to be undone: weights, running statistics, state, random generator."""
    work = Work()
    before = work.traces()
    with undone([work.model], work.optimizer, CPU) as fits:
        assert fits
        work.step()
        torch.rand(1)
        inside = work.traces()
    assert not _same(inside["generator"], before["generator"])
    assert not _same(inside["state"], before["state"])
    changed = {name for name in before["model"] if not torch.equal(before["model"][name], inside["model"][name])}
    assert any(name.endswith("running_mean") for name in changed)
    assert any(name.endswith("weight") for name in changed)


def test_traces_are_undone_if_the_step_fails() -> None:
    work = Work()
    before = work.traces()

    def fails() -> None:
        work.step()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work.limit(step=fails)
    assert _same(work.traces(), before)


def test_the_limit_is_the_speed_of_the_step_alone() -> None:
    work = Work()
    calls: list[float] = []

    def step() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.2 if len(calls) == 1 else 0.01)  # the first one warms up, and does not count

    limit = work.limit(step=step, seconds=0.5)
    assert limit is not None
    assert 0.5 * COUNT / 0.01 < limit <= COUNT / 0.01
    assert 5 < len(calls) <= 32


def test_a_slow_device_makes_one_step() -> None:
    work = Work()
    calls: list[int] = []

    def step() -> None:
        calls.append(1)
        time.sleep(0.05)

    assert work.limit(step=step, seconds=0.02) == pytest.approx(COUNT / 0.05, rel=0.3)
    assert len(calls) == 1


def test_nothing_is_measured_while_memory_is_tight(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    monkeypatch.setattr(limits, "_free_bytes", lambda device: limits.SPARE)
    assert work.limit(step=lambda: pytest.fail("it must not run")) is None


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory"), MemoryError(), ResourceError("out of memory during training")]
)
def test_running_out_of_memory_leaves_the_run_as_it_was(error: Exception) -> None:
    work = Work()
    before = work.traces()

    def step() -> None:
        work.step()
        if isinstance(error, ResourceError):
            raise error from MemoryError()
        raise error

    assert work.limit(step=step) is None
    assert _same(work.traces(), before)
    assert work.gradients.micro_batch == COUNT + 1


def test_other_resources_are_errors() -> None:
    with pytest.raises(ResourceError, match="disk"):
        Work().limit(step=_raises(ResourceError("the disk is full")))


def _raises(error: Exception) -> Callable[[], None]:
    def step() -> None:
        raise error

    return step


def test_parts_made_smaller_by_a_measurement_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work()
    forward = Gradients._forward

    def tight(self: Gradients, x: Tensor) -> Any:
        if len(x) > COUNT // 2:
            raise RuntimeError("CUDA out of memory")
        return forward(self, x)

    monkeypatch.setattr(Gradients, "_forward", tight)
    assert work.limit(seconds=0.05) is not None
    assert work.gradients.micro_batch == COUNT + 1
    assert not work.notes


CASES: dict[str, dict[str, Any]] = {
    "everything trains": {"model": {"freeze": "all"}},
    "steps start from activations": {"model": {"freeze": "last-stage"}, "features": {"views": 2}},
    "unfrozen by and by": {"model": {"freeze": "head", "unfreeze": ["last-stage", "all"]}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_measures_its_limit_has_the_same_weights(
    case: str,
    tmp_path: Path,
    tiny_weights: Path,
    make_images: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_images(tmp_path / "data", {"ash": 20, "birch": 15})
    recipe = Recipe.model_validate(
        {
            "mode": "finetune",
            "data": {"path": str(data)},
            "model": {"name": "test_resnet", "weights": str(tiny_weights), "image_size": 64, **CASES[case]["model"]},
            "features": CASES[case].get("features", {}),
            "train": {"epochs": 3, "batch_size": 8},
            "run": {"device": "cpu", "precision": "fp32"},
        }
    )
    train(recipe, tmp_path / "without")
    measured: list[float | None] = []

    def measure(*arguments: Any, **options: Any) -> float | None:
        measured.append(device_limit(*arguments, **options))
        return measured[-1]

    monkeypatch.setattr(loop, "LONG_EPOCH", 0)
    monkeypatch.setattr(loop, "device_limit", measure)
    train(recipe, tmp_path / "with")
    assert len(measured) == (3 if case == "unfrozen by and by" else 1)  # another phase has other steps
    assert all(measured)
    rows = [json.loads(line) for line in (tmp_path / "with" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["of_limit"] > 0 for row in rows if row["epoch"])
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    assert_same_weights(tmp_path / "with", tmp_path / "without")


def test_free_memory_of_this_machine_is_known_or_not() -> None:
    free = limits._free_bytes(CPU)
    assert free is None or free > 2**20
