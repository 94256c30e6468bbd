"""What the training loop can be told: each setting changes the run, and none the promise to resume to the bit."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.resnet import ResNet
from torch import nn
from whole_runs import StopAfter, assert_close, assert_same_weights, final_weights, metrics

from cnn_tl.core.errors import ArtefactError, DataError, RecipeError, ResourceError, Stopped, UsageError
from cnn_tl.core.progress import Observer
from cnn_tl.features import engine
from cnn_tl.networks.graph.trace import NoGraphError
from cnn_tl.recipe import Recipe, load
from cnn_tl.training import backbone_graph, estimate, lazy_network
from cnn_tl.training.checkpoints.train_state import Progress
from cnn_tl.training.loop import start
from cnn_tl.training.run import plan, train
from cnn_tl.training.step import gradients

Make = Callable[..., Recipe]

SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"train": {"optimizer": "sgd", "lr": 0.01}},
    "lamb": {"train": {"optimizer": "lamb"}},
    "layer decay": {"train": {"layer_decay": 0.7}},
    "one-cycle": {"train": {"schedule": "one-cycle", "warmup": 0.3}},
    "step": {"train": {"schedule": "step", "decay_every": 0.5}},
    "constant": {"train": {"schedule": "constant"}},
    "average": {"train": {"ema": 0.9}},
    "focal": {"train": {"loss": "focal"}},
    "class weights": {"train": {"class_weights": "balanced"}},
    "micro-batches": {"train": {"micro_batch": 3}},
    "steps": {"train": {"steps": 7, "epochs": None}},
    "moving statistics": {"model": {"bn": "train"}},
    "random head": {"train": {"head_start": "random"}},
    "norms": {"model": {"freeze": "norm"}},
    "names": {"model": {"freeze": ["layer4", "*.bn1"]}},
    "unfreezing": {
        "model": {"freeze": "head", "unfreeze": ["last-stage", "all"], "bn": "train"},
        "train": {"epochs": 3},
    },
    "mixup and cutmix": {"augment": {"mixup": 0.4, "cutmix": 1.0}},
    "policy and erasing": {"augment": {"policy": "trivialaugment", "erasing": 0.5}},
    "balanced sampling": {"train": {"sampling": "balanced"}},
    "lp-ft": {"mode": "lp-ft", "head": {"penalty": 10.0}},
}


def made(recipe: Make, name: str, **more: Any) -> Recipe:
    sections = SETTINGS[name] | more
    return recipe(sections.pop("mode", "finetune"), **sections)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Keep the weights of a run with nothing but defaults, once there is one."""
    return {}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_counts_and_resumes_to_the_same_bits(
    recipe: Make, tmp_path: Path, plain: dict[str, Any], name: str
) -> None:
    with pytest.raises(Stopped):
        train(made(recipe, name), tmp_path / "run", observer=StopAfter("epoch 2", 3 if name == "steps" else 9))
    train(made(recipe, name, run={"workers": 3}), tmp_path / "run", resume=True)
    result = train(made(recipe, name), tmp_path / "undisturbed")
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "undisturbed")
    if not plain:
        train(recipe("finetune"), tmp_path / "plain")
        plain |= final_weights(tmp_path / "plain")
    ours = final_weights(result.run)
    assert any(not torch.equal(ours[key], plain[key]) for key in ours)


@pytest.mark.numbers
def test_micro_batches_give_the_gradients_of_the_whole(recipe: Make, tmp_path: Path) -> None:
    for name, size in (("whole", None), ("parts", 3)):
        held = {"bn": "eval"}  # statistics of a batch are those of the part that passes
        settings = {"micro_batch": size, "optimizer": "sgd"}
        train(recipe("finetune", train=settings, model=held, run={"precision": "fp32"}), tmp_path / name)
    whole, parts = final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts")
    assert all(torch.allclose(whole[key], parts[key], atol=1e-6) for key in whole)


def fails_above(images: int) -> Callable[..., torch.Tensor]:
    """Return a network's forward pass that has moved running statistics already when memory runs out."""
    real = ResNet.forward

    def forward(self: ResNet, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = real(self, x)
        if len(x) > images and not x.is_meta:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return logits

    return forward


@pytest.mark.numbers
@pytest.mark.parametrize("fits", [1, 2, 4])
def test_out_of_memory_changes_nothing_but_the_parts(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: int
) -> None:
    """Memory stays flat, and validation needs no more than training."""
    train(recipe("finetune", train={"micro_batch": fits}), tmp_path / "small")
    monkeypatch.setattr(estimate, "seconds_per_image", lambda *_: 0.0)
    monkeypatch.setattr(ResNet, "forward", fails_above(fits))
    observer = StopAfter("", 0)
    result = train(recipe("finetune"), tmp_path / "halved", observer=observer)
    assert [note for note in observer.notes if "out of memory" in note][-1].endswith(f"{fits} at a time from here on")
    assert result.facts["micro_batch"] == fits
    small, halved = final_weights(tmp_path / "small"), final_weights(tmp_path / "halved")
    for name, tensor in small.items():
        assert_close(halved[name], tensor, 0.01)  # AdamW divides by the gradient: its rounding, where it is small


@pytest.mark.parametrize("place", ["the optimizer's state", "validation", "comparing torch with onnxruntime"])
def test_memory_that_halving_cannot_give_ends_the_run_in_one_line(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if place == "validation":
        monkeypatch.setattr(backbone_graph, "trace", no_graph)
    if place == "the optimizer's state":
        monkeypatch.setattr(torch.optim.AdamW, "step", full)
    else:
        monkeypatch.setattr(engine, "normalised", full)
    with pytest.raises(ResourceError, match=f"out of memory for {place}; "):
        train(recipe("finetune", train={"head_start": "random"}), tmp_path / "run")


def no_graph(network: object) -> bytes:
    raise NoGraphError("torch validates")


def test_memory_for_not_even_one_image_ends_the_run(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone_graph, "trace", no_graph)
    monkeypatch.setattr(estimate, "seconds_per_image", lambda *_: 0.0)
    monkeypatch.setattr(ResNet, "forward", fails_above(0))
    with pytest.raises(ResourceError, match="not even one image of") as error:
        train(recipe("finetune", train={"head_start": "random"}), tmp_path / "run")
    assert error.value.exit_code == 5


def test_another_runtime_error_is_no_lack_of_memory(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: gradients.Gradients, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(gradients.Gradients, "_forward", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(recipe("finetune"), tmp_path / "run")


def test_gradual_unfreezing_has_a_receipt_for_each_phase(recipe: Make, tiny_weights: Path, tmp_path: Path) -> None:
    result = train(made(recipe, "unfreezing"), tmp_path / "run")
    phases = result.facts["phases"]
    assert [(phase["epoch"], phase["policy"]) for phase in phases] == [(1, "head"), (2, "last-stage"), (3, "all")]
    trainable = [sum(stage["trainable"] for stage in phase["stages"]) for phase in phases]
    assert trainable[0] < trainable[1] < trainable[2]
    assert phases[0]["stages"][0]["batch_norm"] == "eval"
    assert phases[2]["stages"][0]["batch_norm"] == "train"
    assert len({phase["frozen_sha256"] for phase in phases}) == 3


def test_a_plan_names_the_phases(recipe: Make, tmp_path: Path) -> None:
    assert plan(made(recipe, "unfreezing"), tmp_path / "run").phases == "head (epoch 1), last-stage (2), all (3)"
    pairs = {"freeze": ["layer4"], "unfreeze": ["all"], "unfreeze_every": 2}
    steps = {"epochs": None, "steps": 21}  # of five an epoch
    longer = plan(recipe("finetune", model=pairs, train=steps), tmp_path / "run")
    assert longer.phases == "[layer4] (epochs 1-2), all (3-5)"
    assert plan(recipe("finetune"), tmp_path / "run").phases is None


def test_held_statistics_do_not_move(recipe: Make, tiny_weights: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    train(recipe("finetune"), tmp_path / "run")
    before, after = load_file(tiny_weights), final_weights(tmp_path / "run")
    statistics = [name for name in before if "running" in name]
    assert statistics
    assert all(torch.equal(before[name], after[name]) for name in statistics)


def test_training_ends_when_it_no_longer_gets_better(recipe: Make, tmp_path: Path) -> None:
    idle = {"epochs": 9, "lr": 1e-12, "patience": 2}
    result = train(recipe("finetune", train=idle, model={"bn": "eval"}), tmp_path / "run")
    assert result.facts["best_epoch"] < result.facts["epochs"] < 9
    assert result.facts["ended_early"] == "no better epoch in 2"
    longer = recipe("finetune", train=idle | {"epochs": 12}, model={"bn": "eval"})
    with pytest.raises(RecipeError, match=r"no better epoch in 2: train.patience\), so more epochs change nothing"):
        train(longer, tmp_path / "run", resume=True)
    assert train(recipe("finetune", train=idle, model={"bn": "eval"}), tmp_path / "run", resume=True) == result


def test_a_finished_run_can_be_made_longer(recipe: Make, tmp_path: Path) -> None:
    train(recipe("finetune"), tmp_path / "run")
    longer = recipe("finetune", train={"epochs": 4})
    observer = StopAfter("epoch 4", 9)
    with pytest.raises(Stopped):
        train(longer, tmp_path / "run", resume=True, observer=observer)
    assert any("the run is extended" in note for note in observer.notes)
    assert not (tmp_path / "run" / "result.json").exists()
    result = train(load(tmp_path / "run" / "recipe.yaml"), tmp_path / "run", resume=True)
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == [0, 1, 2, 3, 4]
    assert result.facts["epochs"] == 4
    with pytest.raises(RecipeError, match=r"train.epochs: 4 -> 2.*only more epochs"):
        train(recipe("finetune"), tmp_path / "run", resume=True)


@pytest.mark.parametrize("steps", [8, 10, 13])
def test_a_longer_run_continues_the_epoch_that_it_was_cut_short_in(recipe: Make, tmp_path: Path, steps: int) -> None:
    short = {"steps": 7, "epochs": None}
    assert train(recipe("finetune", train=short), tmp_path / "run").facts["epochs"] == 2
    result = train(recipe("finetune", train=short | {"steps": steps}), tmp_path / "run", resume=True)
    rows = metrics(tmp_path / "run")
    assert [row["epoch"] for row in rows] == list(range(result.facts["epochs"] + 1))
    assert rows[-1]["step"] == steps
    assert all(row["step"] == 5 * row["epoch"] for row in rows[:-1])


def test_an_epoch_that_goes_on_counts_all_of_its_steps() -> None:
    """Before the loss of its first part was left out, and that part could stay the best epoch."""
    progress = Progress(step=7, loss_sum=6.0, aux_sums=[3.0], seen=2)
    row = {"step": 7, "epoch": 2, "val_accuracy": 0.9, "val_loss": 0.1}
    progress.rows.append(row | {"epoch": 1})
    progress.update_best(row)
    progress.end_epoch(row)
    assert (progress.loss_sum, progress.aux_sums, progress.seen) == (0, [], 0)
    progress.reopen(5, 7)
    assert progress.epochs == 2, "it is no longer"
    progress = Progress.read({"progress": vars(progress)})
    progress.reopen(5, 8)
    assert (progress.epochs, progress.loss_sum, progress.aux_sums, progress.seen) == (1, 6.0, [3.0], 2)
    assert not progress.has_best


def test_a_finished_run_does_not_take_a_folder_that_is_not_there(recipe: Make, tmp_path: Path) -> None:
    result = train(recipe("finetune"), tmp_path / "run")
    assert train(recipe("finetune"), tmp_path / "run", resume=True) == result
    with pytest.raises(DataError, match="nowhere does not exist"):
        train(recipe("finetune", data={"path": str(tmp_path / "nowhere")}), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("mode", "settings", "more"),
    [
        ("scratch", {"batch_size": 1}, "use a larger --batch-size or --image-size$"),
        ("scratch", {"batch_size": 9, "micro_batch": 2}, "use a larger train.micro_batch or --image-size$"),
        ("scratch", {"batch_size": 5, "micro_batch": 2}, "use a larger train.micro_batch or --image-size$"),
        ("finetune", {"batch_size": 1}, "use a larger --batch-size or --image-size, or --set model.bn=eval$"),
    ],
)
def test_statistics_of_a_single_value_are_refused_while_planning(
    recipe: Make, tmp_path: Path, mode: str, settings: dict[str, Any], more: str
) -> None:
    def wanted(side: int, bn: str) -> Recipe:
        return recipe(mode, train=settings, model={"image_size": side, "bn": bn})

    for run in (plan, train):
        with pytest.raises(UsageError, match=f"a single image of 32 x 32 px would pass the network alone.*{more}"):
            run(wanted(32, "train"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    plan(wanted(96, "train"), tmp_path / "run")
    if mode == "finetune":
        plan(wanted(32, "eval"), tmp_path / "run")


def test_an_average_of_a_short_run_has_left_its_start(recipe: Make, tmp_path: Path) -> None:
    """A decay of 0.999 alone would keep 99% of the first step's weights after ten."""
    still = recipe("finetune", train={"head_start": "random", "ema": 0.999})
    moving = recipe("finetune", train={"head_start": "random"})
    train(still, tmp_path / "still")
    train(moving, tmp_path / "moving")
    average, last = (final_weights(tmp_path / run)["fc.weight"] for run in ("still", "moving"))
    assert (average - last).norm() < 0.6 * last.norm()


def test_a_run_that_goes_on_in_other_numbers_says_so(recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(recipe("finetune", run={"precision": "fp32"}), tmp_path / "run", observer=StopAfter("epoch 2", 9))
    observer = Observer()
    warnings: list[str] = []
    observer.warn = warnings.append  # type: ignore[method-assign]
    train(recipe("finetune", run={"precision": "bf16"}), tmp_path / "run", resume=True, observer=observer)
    assert [text for text in warnings if "resumes in bf16 on cpu, after fp32 on cpu" in text]


def test_a_longer_run_may_lie_and_work_elsewhere_but_learns_the_same(recipe: Make, tmp_path: Path) -> None:
    train(recipe("finetune", train={"epochs": 1}), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"another recipe \(train\.weight_decay: 0\.05 -> 0\.1\); resume without"):
        train(recipe("finetune", train={"weight_decay": 0.1}), tmp_path / "run", resume=True)
    elsewhere = recipe("finetune", features={"budget_gb": 1.0}, data={"keep_images": False}, run={"workers": 1})
    assert train(elsewhere, tmp_path / "run", resume=True).facts["epochs"] == 2


def test_lp_ft_begins_with_the_head_of_freeze_and_gives_a_verdict(recipe: Make, tmp_path: Path) -> None:
    frozen = train(recipe(), tmp_path / "frozen")
    result = train(recipe("lp-ft", train={"lr": 1e-12, "temperature": "none"}), tmp_path / "run")
    head, before = (
        {name: t for name, t in final_weights(run).items() if name.startswith("fc.")}
        for run in (tmp_path / "run", tmp_path / "frozen")
    )
    assert all(torch.allclose(head[name], before[name], atol=1e-6) for name in head)
    verdict = result.facts["verdict"]
    assert verdict["frozen_accuracy"] == frozen.accuracy
    assert verdict["fine_tuned_accuracy"] == result.accuracy
    assert verdict["gain"] == pytest.approx(result.accuracy - frozen.accuracy)
    assert verdict["interval"][0] < verdict["gain"] < verdict["interval"][1]
    assert 0 <= verdict["p"] <= 1
    assert verdict["kept"] == "fine-tuned"


@pytest.mark.numbers
def test_fine_tuning_starts_with_a_head_that_was_fitted(recipe: Make, tmp_path: Path) -> None:
    frozen = train(recipe(run={"precision": "fp32"}), tmp_path / "frozen")
    idle = {"lr": 1e-12, "epochs": 1, "temperature": "none"}  # what comes out is what it started with
    observer = StopAfter("", 0)
    fitted = train(recipe("finetune", train=idle), tmp_path / "fitted", observer=observer)
    random = train(recipe("finetune", train=idle | {"head_start": "random"}), tmp_path / "random")
    assert fitted.correct == frozen.correct > random.correct
    assert "fitted head alone: 100.0% of the validation images right" in observer.notes
    assert fitted.facts["fitted_head_accuracy"] == frozen.accuracy
    assert "fitted_head_accuracy" not in random.facts
    [alone, after], [only] = metrics(tmp_path / "fitted"), metrics(tmp_path / "random")
    assert (alone["epoch"], alone["step"], alone["val_accuracy"]) == (0, 0, frozen.accuracy)
    assert alone["val_loss"] == pytest.approx(after["val_loss"], abs=1e-6)
    assert (after["epoch"], only["epoch"]) == (1, 1)
    ours, before = final_weights(tmp_path / "fitted"), final_weights(tmp_path / "frozen")
    assert_close(ours["fc.weight"], before["fc.weight"])


@pytest.mark.numbers
def test_what_no_epoch_betters_is_kept(recipe: Make, tmp_path: Path) -> None:
    """Fine-tuning begins with something that works; where it only spoils that, the run gives it back."""
    spoiling = {"lr": 0.05, "epochs": 3, "schedule": "constant", "temperature": "none"}
    result = train(recipe("finetune", train=spoiling), tmp_path / "run")
    alone, *after = metrics(tmp_path / "run")
    assert max(row["val_accuracy"] for row in after) < alone["val_accuracy"] == result.accuracy
    assert (result.facts["best_epoch"], result.facts["epochs"]) == (0, 3)
    head = train(recipe(run={"precision": "fp32"}), tmp_path / "frozen").run
    ours, frozen = final_weights(tmp_path / "run"), final_weights(head)
    for name, tensor in frozen.items():
        assert_close(ours[name], tensor)
    assert train(recipe("lp-ft", train=spoiling), tmp_path / "lp-ft").facts["best_epoch"] > 0, "it has a verdict"


def test_patience_counts_from_what_was_trained(recipe: Make, tmp_path: Path) -> None:
    """The first steps from a fitted head may well lead down before they lead up."""
    spoiling = {"lr": 0.05, "epochs": 9, "schedule": "constant", "patience": 3}
    result = train(recipe("finetune", train=spoiling), tmp_path / "run")
    trained = [(row["val_accuracy"], -row["val_loss"]) for row in metrics(tmp_path / "run")[1:]]
    assert result.facts["epochs"] - 1 - trained.index(max(trained)) >= 3 or result.facts["epochs"] == 9
    assert result.facts["epochs"] > 3


def test_a_finished_run_without_a_checkpoint_stays_as_it_is(recipe: Make, tmp_path: Path) -> None:
    run = train(recipe("finetune"), tmp_path / "run").run
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "checkpoints" not in path.parts}
    states = list(run.glob("checkpoints/step-*/state.json"))
    for damaged in (True, False):
        for state in states:
            state.write_text("{}") if damaged else shutil.rmtree(state.parent)
        with pytest.raises(ArtefactError, match="no whole checkpoint to resume from, so it cannot be made longer"):
            train(recipe("finetune", train={"epochs": 4}), run, resume=True)
        assert all(path.read_bytes() == content for path, content in before.items())
    assert train(recipe("finetune"), run, resume=True).facts["epochs"] == 2


def test_nothing_is_lost_where_nothing_was_trained(recipe: Make, tmp_path: Path) -> None:
    warnings: list[str] = []
    with pytest.raises(Stopped):
        train(recipe("finetune"), tmp_path / "run", observer=StopAfter("epoch 1", 1))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == [0]
    observer = Observer()
    observer.warn = warnings.append  # type: ignore[method-assign]
    train(recipe("finetune"), tmp_path / "run", resume=True, observer=observer)
    assert not warnings


def test_of_many_images_the_head_is_fitted_on_some_of_each_class(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "AT_MOST", 4)
    seen: list[int] = []
    fit = start._fit

    def listening(dataset: Any, network: Any, images: Any, features: Any) -> Any:
        seen.extend(image.label for image in images)
        return fit(dataset, network, images, features)

    monkeypatch.setattr(start, "_fit", listening)
    train(recipe("finetune", train={"epochs": 1}), tmp_path / "run")
    assert set(seen) == {0, 1, 2}
    assert len(seen) <= 4 + 3


def test_auto_keeps_the_frozen_model_unless_fine_tuning_gains(recipe: Make, tmp_path: Path) -> None:
    frozen = train(recipe(), tmp_path / "frozen")
    result = train(recipe("auto"), tmp_path / "run")
    assert result.facts["verdict"]["kept"] == "frozen"
    assert result.correct == frozen.correct
    assert_same_weights(tmp_path / "run", tmp_path / "frozen")
    assert result.facts["frozen_sha256"] == frozen.facts["frozen_sha256"]


def test_auto_keeps_what_is_better_than_chance(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_tl.training.modes import lp_ft

    monkeypatch.setattr(lp_ft.compare_paired.__globals__["PairedComparison"], "more_than_chance", True)
    result = train(recipe("auto"), tmp_path / "run")
    train(recipe("lp-ft"), tmp_path / "lp-ft")
    assert result.facts["verdict"]["kept"] == "fine-tuned"
    assert_same_weights(tmp_path / "run", tmp_path / "lp-ft")


def test_the_head_is_fitted_once_however_often_a_run_is_stopped(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stopped):
        train(recipe("lp-ft"), tmp_path / "run", observer=StopAfter("epoch 1", 9))
    from cnn_tl.training.modes import freeze as frozen

    monkeypatch.setattr(frozen, "run", lambda *_: pytest.fail("fitted again"))
    result = train(recipe("lp-ft"), tmp_path / "run", resume=True)
    assert result.facts["verdict"]["seconds_head"] > 0


@pytest.mark.parametrize("work", [plan, train])
@pytest.mark.parametrize("mode", ["finetune", "lp-ft"])
@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"optimizer": "adamx"}}, "timm has no optimiser called adamx"),
        ({"train": {"optimizer": "kron"}}, "draws random numbers of its own"),
        ({"train": {"momentum": 0.5}}, "train.momentum has no effect with train.optimizer: adamw"),
        ({"train": {"class_weights": {"oak": 2}}}, "train.class_weights names 'oak'"),
        ({"model": {"bn": "sync"}, "run": {"device": "auto"}}, "model.bn: sync needs CUDA"),
        ({"model": {"freeze": "last-stage", "unfreeze": ["norm"]}}, "would freeze .* again"),
        ({"model": {"freeze": "head", "unfreeze": [["layer9"]]}}, "nothing in ResNet is called 'layer9'"),
        ({"model": {"freeze": "head", "unfreeze": ["last-9"]}}, "ResNet has 5 stages"),
        (
            {"model": {"freeze": "head", "unfreeze": ["all"]}, "train": {"epochs": None, "steps": 5}},
            "all would begin with epoch 2, and the run has 1",
        ),
    ],
)
def test_what_the_loop_cannot_do_is_said_in_one_line_before_anything_is_written(
    recipe: Make, tmp_path: Path, mode: str, sections: dict[str, Any], message: str, work: Callable[..., object]
) -> None:
    with pytest.raises((UsageError, ResourceError), match=message):
        work(recipe(mode, **sections), tmp_path / "run")
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_a_plan_counts_the_fitted_head_and_what_loading_torch_took(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "seconds_per_image", lambda *_: 1.0)
    fitted, random = (
        plan(recipe("finetune", train={"head_start": head}), tmp_path / "run").seconds for head in ("fitted", "random")
    )
    assert fitted - random == pytest.approx(36 + 9, abs=1)  # features of those to train on, once those to validate
    monkeypatch.setattr(estimate, "seconds_per_image", lambda *_: 0.0)
    monkeypatch.setattr(lazy_network, "require_torch", lambda purpose: time.sleep(1.5))
    for mode in ("finetune", "lp-ft"):
        assert 1.5 < plan(recipe(mode), tmp_path / "run").seconds < 10


def test_a_plan_names_what_lp_ft_does(recipe: Make, tmp_path: Path) -> None:
    made = plan(recipe("lp-ft"), tmp_path / "run")
    assert made.schedule.startswith("the head (lbfgs+ridge) on frozen features, then 2 epochs")


def test_each_epoch_tells_its_speed_and_its_learning_rate(recipe: Make, tmp_path: Path) -> None:
    figures: list[Any] = []
    observer = Observer()
    observer.epoch = figures.append  # type: ignore[method-assign]
    train(recipe("finetune"), tmp_path / "run", observer=observer)
    assert all(row["images_per_second"] > 0 for row in figures)
    assert all(row["lr"] > 0 for row in metrics(tmp_path / "run")[1:])


def test_modules_stay_in_training_mode_by_policy() -> None:
    from cnn_tl.networks import freeze_policies

    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1))
    freeze_policies.apply(model, "all", bn="eval")
    freeze_policies.train_mode(model)
    assert (model[0].training, model[1].training) == (False, True)
    freeze_policies.apply(model, "all")
    freeze_policies.train_mode(model)
    assert model[0].training


@pytest.mark.soak
def test_a_compiled_loop_learns_the_same_and_resumes_to_the_bit(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    compiled = recipe("finetune", run={"device": "cpu", "precision": "fp32", "compile": "always"})
    train(compiled, tmp_path / "compiled")
    train(recipe("finetune", run={"device": "cpu", "precision": "fp32"}), tmp_path / "plain")
    for one, other in zip(metrics(tmp_path / "compiled")[1:], metrics(tmp_path / "plain")[1:], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
    with pytest.raises(Stopped):
        train(compiled, tmp_path / "stopped", observer=StopAfter("epoch 2", 1))
    train(compiled, tmp_path / "stopped", resume=True)
    assert_same_weights(tmp_path / "stopped", tmp_path / "compiled")
