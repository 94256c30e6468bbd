"""The precision of a loop: measured once, and kept by resumed runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import StopAfter, assert_same_weights

from cnn_tl.core.cpu import processor
from cnn_tl.core.errors import Stopped
from cnn_tl.core.progress import Observer, Plan
from cnn_tl.networks import backbone, freeze_policies
from cnn_tl.networks.pretrained import weights
from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Run
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.run import plan, train
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.step import precision

MakeRecipe = Callable[..., Recipe]
FASTER = {"fp32": {"fp32": 0.01, "bf16": 0.0095}, "bf16": {"fp32": 0.01, "bf16": 0.005}}


ODD = [
    f'{{"hardware": "HERE", "seconds": {{"fp32": 0.01, "bf16": {value}}}}}'
    for value in ("NaN", "-1.0", "1e400", "9" * 400, "true", "null", "[0.1]", '"0.1"')
]


class Listener(Observer):
    def __init__(self) -> None:
        self.format = ""
        self.warnings: list[str] = []

    def plan(self, plan: Plan) -> None:
        self.format = plan.precision

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Stopwatch:
    """Says what it is told to, and counts how often it is asked."""

    def __init__(self) -> None:
        self.says: str | None = "bf16"
        self.asked = 0

    def __call__(self, *arguments: Any) -> dict[str, float] | None:
        self.asked += 1
        return FASTER[self.says] if self.says else None


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    """Pretend that the processor multiplies bf16."""
    watch = Stopwatch()
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    monkeypatch.setattr(precision, "seconds_of_a_step", watch)
    return watch


@pytest.fixture
def tiny_network() -> backbone.Network:
    source = weights.Source("random", None, "")
    return backbone.build("test_resnet", source, num_classes=3, image_size=64, seed=0)


@pytest.fixture
def format_of(tmp_path: Path) -> Callable[[Recipe], str]:
    """Train by a recipe, and return the precision."""

    def go(recipe: Recipe) -> str:
        listener = Listener()
        train(recipe, tmp_path / f"run {len(list(tmp_path.glob('run *')))}", observer=listener)
        return listener.format

    return go


def test_both_formats_are_timed_and_nothing_is_left_of_it(tiny_network: backbone.Network) -> None:
    model = tiny_network.model
    freeze_policies.apply(model, "last-stage")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    seconds = precision.seconds_of_a_step(tiny_network, torch.device("cpu"))
    assert seconds is not None
    assert {name: took > 0 for name, took in seconds.items()} == {"fp32": True, "bf16": True}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_memory_that_does_not_suffice_leaves_it_to_the_rule(
    tiny_network: backbone.Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(precision, "_seconds", fail)
    monkeypatch.setattr(precision, "has_fast_bf16", lambda device: True)
    assert precision.seconds_of_a_step(tiny_network, torch.device("cpu")) is None
    assert precision.find(tiny_network, torch.device("cpu")) == "bf16"


@pytest.mark.parametrize("first", ["fp32", "bf16"])
def test_the_first_answer_stays(
    recipe: MakeRecipe, stopwatch: Stopwatch, format_of: Callable[[Recipe], str], first: str
) -> None:
    """The machine may be busy the next time; the same recipe gives the same weights all the same."""
    stopwatch.says = first
    assert plan(recipe("finetune")).precision == first
    assert format_of(recipe("finetune")) == first
    stopwatch.says = {"fp32": "bf16", "bf16": "fp32"}[first]
    assert format_of(recipe("finetune")) == first
    train(recipe("freeze"))  # keeps what it learns of the network in the same place
    assert format_of(recipe("finetune")) == first
    assert stopwatch.asked == 2, "by the plan, which keeps nothing, and once more"
    assert format_of(recipe("finetune", model={"freeze": "last-stage"})) == stopwatch.says, "another loop"


@pytest.mark.parametrize("text", ["", "{}", "[]", "NaN", '{"hardware": "?"}', '{"hardware": 1, "seconds": 2}', *ODD])
def test_what_makes_no_sense_is_found_anew(
    recipe: MakeRecipe, stopwatch: Stopwatch, tiny_network: backbone.Network, tmp_path: Path, text: str
) -> None:
    run = Run(recipe("finetune").resolve(), RunFolder(tmp_path / "run"))
    network = LazyNetwork(backbone.describe(tiny_network), tmp_path, lambda: tiny_network, device="cpu")

    def found() -> str:
        return precision.loop_precision(run, network)

    assert found() == "bf16"
    stopwatch.says = "fp32"
    assert found() == "bf16", "kept"
    [file] = tmp_path.glob("loop-*.json")
    file.write_text(text.replace("HERE", processor()))
    assert found() == "fp32"


@pytest.mark.parametrize("why", ["no cache", "no time"])
def test_where_nothing_is_kept_the_rule_decides(
    recipe: MakeRecipe, stopwatch: Stopwatch, format_of: Callable[[Recipe], str], own_cache: Path, why: str
) -> None:
    stopwatch.says = None if why == "no time" else "fp32"
    assert format_of(recipe("finetune", features={"cache": why != "no cache"})) == "bf16"
    assert not list(own_cache.glob("networks/*/loop-*.json"))


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_what_the_recipe_says_needs_no_stopwatch(
    recipe: MakeRecipe, stopwatch: Stopwatch, format_of: Callable[[Recipe], str], wanted: str
) -> None:
    assert format_of(recipe("finetune", run={"precision": wanted})) == wanted
    assert stopwatch.asked == 0


def test_a_run_goes_on_in_the_format_that_it_began_in(
    recipe: MakeRecipe, stopwatch: Stopwatch, own_cache: Path, tmp_path: Path
) -> None:
    """Even where what was measured is gone, and would be found otherwise now."""
    train(recipe("finetune"), tmp_path / "undisturbed")
    with contextlib.suppress(Stopped):
        train(recipe("finetune"), tmp_path / "stopped", observer=StopAfter("epoch 2", 8))
    [file] = own_cache.glob("networks/*/loop-*.json")
    file.unlink()
    stopwatch.says, listener = "fp32", Listener()
    train(recipe("finetune"), tmp_path / "stopped", resume=True, observer=listener)
    assert (listener.format, listener.warnings) == ("bf16", [])
    assert not file.exists(), "nothing was measured for it"
    assert_same_weights(tmp_path / "stopped", tmp_path / "undisturbed")
