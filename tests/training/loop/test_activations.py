"""Training on cached activations gives what training on the images gives, without the frozen part of the work."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from whole_runs import assert_close

from cnn_tl.core.errors import Stopped, UsageError
from cnn_tl.core.progress import Observer
from cnn_tl.data.views import transforms
from cnn_tl.recipe import Recipe
from cnn_tl.recipe.defaults import DEFAULT_VIEWS
from cnn_tl.training.loop import activations
from cnn_tl.training.run import train
from cnn_tl.training.step import gradients, optimizer

TRAIN = 36
Make = Callable[..., Recipe]
Learned = tuple[dict[str, torch.Tensor], list[dict[str, Any]]]
"""The weights of a run, and its rows without what differs in each run."""


@pytest.fixture
def data(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path / "data", {"ash": 20, "birch": 15, "cedar": 10})


@pytest.fixture
def recipe(data: Path, tiny_weights: Path) -> Make:
    def make(freeze: str = "last-stage", **sections: Mapping[str, Any]) -> Recipe:
        tree: dict[str, Any] = {
            "mode": "finetune",
            "data": {"path": str(data)},
            "model": {"name": "test_resnet", "weights": str(tiny_weights), "image_size": 64, "freeze": freeze},
            "features": {"views": 2},
            "train": {"epochs": 3, "batch_size": 8, "lr": 0.001},
            "run": {"device": "cpu", "precision": "fp32"},
        }
        for name, values in sections.items():
            tree[name] = tree.get(name, {}) | values
        return Recipe.model_validate(tree)

    return make


class Listener(Observer):
    """Keeps notes and warnings, and sends this process a signal once a task has processed a number of images."""

    def __init__(self, task: str = "", images: int = 0) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.tasks: list[tuple[str, int | None]] = []
        self._stop_in, self._left = task, images

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        self.tasks.append((task, total))

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        if self._left > 0 and self.tasks[-1][0].startswith(self._stop_in):
            self._left -= done
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGINT)


def learned(run: Path) -> Learned:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = load_file(run / "model" / "model.safetensors")
    times = ("images_per_second", "of_limit")
    return weights, [{k: v for k, v in row.items() if k not in times} for row in rows]


def assert_same(one: Path, other: Path) -> None:
    assert_same_learned(learned(one), learned(other))


def assert_same_learned(one: Learned, other: Learned) -> None:
    (weights, rows), (other_weights, other_rows) = one, other
    assert rows == other_rows
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def run_and_listen(recipe: Recipe, run: Path) -> Listener:
    listener = Listener()
    train(recipe, run, observer=listener)
    return listener


@pytest.mark.numbers
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("freeze", ["head", "last-stage", "last-2"])
def test_kept_or_computed_anew_gives_the_same_bits(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, freeze: str, precision: str
) -> None:
    """Where there is no room the frozen part is a step of its own too; where it cannot be cut it is not, and rounds
    as batches of the step's size do."""
    chosen = recipe(freeze, run={"precision": precision}, train={"temperature": "none"})
    kept = run_and_listen(chosen, tmp_path / "kept")
    assert any("are kept: 2 views of 36 images" in note for note in kept.notes)
    assert [task for task in kept.tasks if task[0].startswith("activations")] == [
        ("activations, view 0", TRAIN),
        ("activations, view 1", TRAIN),
    ]
    shutil.rmtree(own_cache)
    tight = chosen.model_copy(update={"features": chosen.features.model_copy(update={"budget_gb": 1e-5})})
    anew = run_and_listen(tight, tmp_path / "anew")
    assert any("computed in each epoch: " in note for note in anew.notes)
    assert_same(tmp_path / "kept", tmp_path / "anew")
    monkeypatch.setattr(activations, "split", lambda *_: "this test forbids it")
    uncut = run_and_listen(chosen, tmp_path / "uncut")
    assert any("computed in each epoch: test_resnet cannot be split: this" in note for note in uncut.notes)
    (weights, _), (others, _) = learned(tmp_path / "kept"), learned(tmp_path / "uncut")
    least = 0.01 if precision == "fp32" else 0.05
    for name, tensor in weights.items():
        assert_close(others[name], tensor, least)


@pytest.mark.numbers
def test_room_in_the_cache_changes_no_bit_of_steps_of_any_size(recipe: Make, tmp_path: Path) -> None:
    small = {"batch_size": 5, "epochs": 2}
    model = {"name": "tf_efficientnet_lite0", "weights": None, "freeze": "last-stage"}  # its bits depend on the batch
    anew = run_and_listen(recipe(model=model, train=small, features={"budget_gb": 1e-5}), tmp_path / "anew")
    kept = run_and_listen(recipe(model=model, train=small), tmp_path / "kept")
    assert any("are kept: " in note for note in kept.notes)
    assert any("computed in each epoch: " in note for note in anew.notes)
    assert_same(tmp_path / "kept", tmp_path / "anew")


def test_a_second_run_computes_no_activations(recipe: Make, tmp_path: Path) -> None:
    first = run_and_listen(recipe(), tmp_path / "first")
    second = run_and_listen(recipe(), tmp_path / "second")
    [before] = [note for note in first.notes if "are kept" in note]
    [after] = [note for note in second.notes if "are kept" in note]
    size = before.partition("images, ")[2].partition(";")[0]
    assert before.endswith("; 0 B are cached already")
    assert after.endswith(f"; {size} are cached already")
    assert not [task for task, _ in second.tasks if task.startswith("activations")]
    assert_same(tmp_path / "first", tmp_path / "second")


def test_more_views_and_more_epochs_use_what_is_there(recipe: Make, tmp_path: Path) -> None:
    run_and_listen(recipe(), tmp_path / "first")
    more = run_and_listen(recipe(features={"views": 3}, train={"epochs": 4}), tmp_path / "second")
    assert [task for task, _ in more.tasks if task.startswith("activations")] == ["activations, view 2"]


def test_no_more_views_are_kept_than_there_are_epochs(recipe: Make, tmp_path: Path) -> None:
    listener = run_and_listen(recipe(features={"views": 8}, train={"epochs": 2}), tmp_path / "run")
    assert any("are kept: 2 views" in note for note in listener.notes)


def test_views_come_round_again(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = activations.Activations.read

    def read(self: activations.Activations, images: Any, view: int, source: Any) -> torch.Tensor:
        seen.append(view)
        return real(self, images, view, source)

    monkeypatch.setattr(activations.Activations, "read", read)
    train(recipe(train={"epochs": 5}), tmp_path / "run")
    steps = -(-TRAIN // 8)
    assert seen == [view for view in (0, 1, 0, 1, 0) for _ in range(steps)]


@pytest.fixture(scope="module")
def undisturbed() -> list[Learned]:
    """Keep what a run learns that keeps nothing and is never stopped, once there is one."""
    return []


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(
    ("task", "images"),
    [("preparing", 5), ("activations, view 0", 20), ("epoch 1", 20), ("activations, view 1", 5), ("epoch 3", 36)],
)
def test_a_stopped_run_resumes_to_the_same_bits(
    recipe: Make, tmp_path: Path, undisturbed: list[Learned], task: str, images: int, cache: bool
) -> None:
    chosen = recipe(features={"views": 2, "cache": cache})
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "run", observer=Listener(task, images))
    train(chosen, tmp_path / "run", resume=True)
    if not undisturbed:
        train(recipe(features={"views": 2, "cache": False}), tmp_path / "undisturbed")
        undisturbed.append(learned(tmp_path / "undisturbed"))
    assert_same_learned(learned(tmp_path / "run"), undisturbed[0])
    assert not (tmp_path / "run" / "checkpoints" / "features").exists()


def test_a_stop_while_activations_are_computed_keeps_them(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(recipe(), tmp_path / "run", observer=Listener("activations, view 1", 32))
    resumed = Listener()
    train(recipe(), tmp_path / "run", resume=True, observer=resumed)
    assert [task for task in resumed.tasks if task[0].startswith("activations")] == [("activations, view 1", 4)]


def test_a_damaged_row_is_computed_again(recipe: Make, tmp_path: Path, own_cache: Path) -> None:
    train(recipe(), tmp_path / "first")
    shards = sorted(own_cache.rglob("*.safetensors"))
    assert shards
    for shard in shards:
        content = bytearray(shard.read_bytes())
        content[-100] ^= 1
        shard.write_bytes(content)
    second = run_and_listen(recipe(), tmp_path / "second")
    assert any("damaged" in warning for warning in second.warnings)
    assert_same(tmp_path / "first", tmp_path / "second")


def test_a_budget_that_is_too_small_is_said(recipe: Make, tmp_path: Path, own_cache: Path) -> None:
    listener = run_and_listen(recipe(features={"views": 2, "budget_gb": 1e-4}), tmp_path / "small")
    assert any("computed in each epoch" in note and "budget" in note for note in listener.notes)
    assert not list(own_cache.rglob("*.safetensors"))
    train(recipe(), tmp_path / "large")
    assert_same(tmp_path / "small", tmp_path / "large")


def test_a_disk_that_fills_up_on_the_way_ends_the_keeping_only(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn_tl.cache.eviction import Eviction

    monkeypatch.setattr(Eviction, "make_room", lambda self, nbytes: "the disk is full")
    listener = run_and_listen(recipe(), tmp_path / "full")
    assert any("the disk is full" in note for note in listener.notes)
    monkeypatch.undo()
    train(recipe(features={"views": 2, "cache": False}), tmp_path / "roomy")
    assert_same(tmp_path / "full", tmp_path / "roomy")


def test_fresh_views_are_never_kept(recipe: Make, tmp_path: Path, own_cache: Path) -> None:
    listener = run_and_listen(recipe(features={"views": "fresh"}), tmp_path / "run")
    assert any("computed in each epoch: features.views is fresh" in note for note in listener.notes)
    assert not list((own_cache / "features").rglob("*.safetensors"))


def test_a_network_without_a_frozen_part_says_nothing(recipe: Make, tmp_path: Path) -> None:
    listener = run_and_listen(recipe("all", features={"views": None}), tmp_path / "run")
    assert not [note for note in listener.notes if "frozen" in note or "kept" in note]


def test_the_step_begins_at_the_split_point(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all activations and images cached no image is decoded, and the prefix never runs."""
    train(recipe(), tmp_path / "first")
    read: list[Path] = []
    load = transforms.read_image
    monkeypatch.setattr(
        transforms, "read_image", lambda path, *rest, **kw: (read.append(path), load(path, *rest, **kw))[1]
    )
    monkeypatch.setattr(activations.Activations, "_rows", lambda *_: pytest.fail("the frozen part ran"))
    train(recipe(), tmp_path / "second")
    assert not read


def test_frozen_parameters_are_not_in_the_optimiser(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[list[dict[str, Any]]] = []
    real = optimizer.parameter_groups
    monkeypatch.setattr(optimizer, "parameter_groups", lambda *rest: (groups.append(found := real(*rest)), found)[1])
    train(recipe("head", train={"head_start": "random"}), tmp_path / "run")
    one, other = groups[-1]  # the first were made while planning
    assert sorted(p.ndim for group in (one, other) for p in group["params"]) == [1, 2]
    assert {group["factor"] for group in (one, other)} == {10}


def test_the_callers_random_numbers_stay_as_they_were(recipe: Make, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(recipe(), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_that_raises_leaves_the_network_whole(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[torch.nn.Module] = []

    def fails(self: gradients.Gradients, x: torch.Tensor) -> torch.Tensor:
        models.append(self.model)
        assert any("forward" in vars(module) for module in self.model.modules()), "inside a step it is in two parts"
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(gradients.Gradients, "_forward", fails)
    with pytest.raises(KeyError) as caught:
        train(recipe(), tmp_path / "run")
    assert caught.tb is not None, "the frames of the failed step are still alive"
    assert not any(m._forward_pre_hooks or "forward" in vars(m) for m in models[0].modules())


def test_too_many_stages_end_the_run_before_it_trains(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 5 stages"):
        train(recipe("last-7"), tmp_path / "run")


@pytest.mark.parametrize(("freeze", "views"), [("last-stage", DEFAULT_VIEWS), ("head", DEFAULT_VIEWS), ("all", None)])
def test_views_are_kept_by_default_where_a_part_is_frozen(recipe: Make, freeze: str, views: int | None) -> None:
    resolved = recipe(freeze, features={"views": None}).resolve()
    assert resolved.features.views == views
    assert resolved.augment is not None
    assert resolved.resolve() == resolved
