"""Whole runs on generated images and a tiny network with random weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from whole_runs import StopAfter, assert_same_weights, final_weights, metrics

from cnn_tl.core.errors import ArtefactError, DataError, DivergedError, RecipeError, ResourceError, Stopped, UsageError
from cnn_tl.core.progress import Observer, Plan
from cnn_tl.data import loader
from cnn_tl.data.views import transforms
from cnn_tl.inference.loading import load
from cnn_tl.networks import bundle
from cnn_tl.networks.backbone import to_input
from cnn_tl.recipe import Recipe, to_yaml
from cnn_tl.training.run import MODES, find_lr, plan, train
from cnn_tl.training.step import gradients

SIDE = 64


@pytest.mark.parametrize("mode", ["freeze", "finetune", "scratch"])
def test_a_run_leaves_everything_in_its_folder(recipe: Callable[..., Recipe], tmp_path: Path, mode: str) -> None:
    plans: list[Plan] = []
    observer = Observer()
    observer.plan = plans.append  # type: ignore[method-assign]
    result = train(recipe(mode), tmp_path / "run", observer=observer)

    names = {path.name for path in result.run.iterdir() if not path.name.startswith(".")}
    assert names >= {"recipe.yaml", "manifest.json", "metrics.jsonl", "validation.jsonl", "result.json", "model"}
    assert not list(result.run.rglob("*.tmp"))
    assert result.images == 9
    assert result.correct == round(result.accuracy * 9)
    assert result.interval[0] < result.accuracy or result.correct == 0
    assert result.baseline == pytest.approx(4 / 9)
    assert {name: total for name, (_, total) in result.per_class.items()} == {"ash": 4, "birch": 3, "cedar": 2}
    assert json.loads((result.run / "result.json").read_text())["correct"] == result.correct
    [made] = plans
    assert made.counts["ash"] == {"train": 16, "val": 4, "test": 0}
    head = 3 * bundle.load(result.run).model.num_features + 3
    assert (made.trainable == head) == (mode == "freeze")


def test_colours_are_learned_on_frozen_features(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    assert train(recipe(), tmp_path / "run").correct == 9


def test_classes_that_are_numbers_are_answered_by_their_own_name(
    recipe: Callable[..., Recipe], make_images: Callable[..., Path], tmp_path: Path
) -> None:
    """Natural order, 2 before 10, from the folders to the answers: sorted as text the names would be exchanged."""
    folder = make_images(tmp_path / "numbers", {"1": 6, "2": 6, "10": 6})
    result = train(recipe(data={"path": str(folder)}), tmp_path / "run")
    model = load(result.run)
    assert model.classes == ("1", "2", "10")
    assert all(answer.label == Path(answer.file).parent.name for answer in model.predict(folder))


def test_timm_loads_the_bundle_and_gives_the_same_logits(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    import timm

    result = train(recipe(), tmp_path / "run")
    ours = bundle.load(result.run)
    theirs = timm.create_model(f"local-dir:{result.run / 'model'}", pretrained=True).eval()
    data_config = timm.data.resolve_model_data_config(theirs)
    assert data_config["input_size"] == (3, SIDE, SIDE)
    assert theirs.pretrained_cfg["label_names"] == ["ash", "birch", "cedar"]
    x_NCHW = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours.model(x_NCHW), theirs(x_NCHW))


@pytest.mark.parametrize("mode", ["freeze", "finetune"])
def test_the_reported_answers_are_those_of_the_saved_model(
    recipe: Callable[..., Recipe], data: Path, tmp_path: Path, mode: str
) -> None:
    result = train(recipe(mode), tmp_path / "run")
    saved = bundle.load(result.run)
    lines = [json.loads(line) for line in (result.run / "validation.jsonl").read_text().splitlines()]
    assert len(lines) == 9
    for line in lines:
        pixels = transforms.read_pixels(data / line["file"], saved.preprocessing)
        with torch.inference_mode():
            logits = saved.model(to_input(np.stack([pixels]), saved.preprocessing, torch.device("cpu")))
        probabilities = logits.double().softmax(1)[0]
        assert saved.classes[int(probabilities.argmax())] == line["predicted"]
        assert float(probabilities.max()) == pytest.approx(line["probability"], abs=1e-5)


@pytest.mark.parametrize(
    ("mode", "sections"),
    [
        ("freeze", {}),
        ("finetune", {}),
        ("scratch", {}),
        ("finetune", {"augment": {"policy": "randaugment", "erasing": 0.5}}),
        ("scratch", {"augment": {"policy": "trivialaugment"}}),
    ],
)
def test_the_same_recipe_twice_with_other_workers(
    recipe: Callable[..., Recipe], tmp_path: Path, mode: str, sections: dict[str, Any]
) -> None:
    for name, workers in (("a", 1), ("b", 4), ("c", 0)):
        train(recipe(mode, run={"workers": workers}, **sections), tmp_path / name)
        assert_same_weights(tmp_path / "a", tmp_path / name)


@pytest.mark.parametrize("mode", ["freeze", "finetune"])
def test_no_workers_are_no_threads(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    chosen = recipe(mode, run={"workers": 0})
    monkeypatch.setattr(loader, "ThreadPoolExecutor", lambda *_, **__: pytest.fail("threads were asked for"))
    assert plan(chosen, tmp_path / "run").seconds > 0
    assert train(chosen, tmp_path / "run").images == 9


@pytest.mark.parametrize(
    ("task", "images", "number"),
    [
        ("preparing", 5, signal.SIGINT),
        ("fitted head", 4, signal.SIGINT),
        ("epoch 1", 3, signal.SIGINT),
        ("epoch 1", 36, signal.SIGTERM),
        ("validation", 4, signal.SIGINT),
        ("epoch 2", 20, signal.SIGTERM),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(
    recipe: Callable[..., Recipe], tmp_path: Path, task: str, images: int, number: int
) -> None:
    with pytest.raises(Stopped, match="--resume --output") as stopped:
        train(recipe("finetune"), tmp_path / "run", observer=StopAfter(task, images, number))
    assert stopped.value.exit_code == 128 + number
    resumed = StopAfter("", 0)
    train(recipe("finetune", run={"workers": 3}), tmp_path / "run", resume=True, observer=resumed)
    assert any("resumed at step" in note for note in resumed.notes) == (task not in ("preparing", "fitted head"))
    train(recipe("finetune"), tmp_path / "undisturbed")
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "undisturbed")


def test_lost_best_weights_are_said_and_do_not_end_the_run(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(recipe("finetune"), tmp_path / "run", observer=StopAfter("epoch 2", 20))
    [victim] = (tmp_path / "run" / "checkpoints").glob("best-*/model.safetensors")
    victim.write_bytes(victim.read_bytes()[:-1])
    warnings: list[str] = []
    observer = Observer()
    observer.warn = warnings.append  # type: ignore[method-assign]
    result = train(recipe("finetune"), tmp_path / "run", resume=True, observer=observer)
    assert result.facts["best_epoch"] == 2
    assert "the best of the epochs from here on is kept" in warnings[0]


def test_a_stopped_freeze_run_does_not_read_its_images_twice(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(train={"batch_size": 8})
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "run", observer=StopAfter("features", 25))
    with pytest.raises(ArtefactError, match="holds no model yet"):
        bundle.load(tmp_path / "run")
    read: list[Path] = []
    load = transforms.read_pixels
    monkeypatch.setattr(transforms, "read_pixels", lambda path, *rest: (read.append(path), load(path, *rest))[1])
    train(chosen, tmp_path / "run", resume=True)
    assert len(read) == 45 - 25, "9 for validation, then two batches of 8"
    train(chosen, tmp_path / "undisturbed")
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")


def test_resuming_a_finished_run_gives_its_result(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    first = train(recipe(), tmp_path / "run")
    assert train(recipe(), tmp_path / "run", resume=True) == first


def test_resume_refuses_another_recipe_and_shows_the_difference(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    train(recipe(), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"head\.penalty: null -> 0\.5\); resume without these changes"):
        train(recipe(head={"penalty": 0.5}), tmp_path / "run", resume=True)


@pytest.mark.parametrize(("change", "word"), [("remove", "removed"), ("edit", "changed"), ("add", "added")])
def test_resume_refuses_other_data_and_shows_the_difference(
    recipe: Callable[..., Recipe], data: Path, tmp_path: Path, change: str, word: str
) -> None:
    with pytest.raises(Stopped):
        train(recipe(), tmp_path / "run", observer=StopAfter("features", 5))
    if change == "remove":
        (data / "ash" / "3.png").unlink()
    else:
        Image.new("RGB", (24, 24)).save(data / "ash" / ("3.png" if change == "edit" else "new.png"))
    with pytest.raises(DataError, match=f"has changed since .*{word}: ash/"):
        train(recipe(), tmp_path / "run", resume=True)


def test_resume_needs_a_run_and_a_new_run_needs_an_empty_folder(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="nothing to resume"):
        train(recipe(), tmp_path / "run", resume=True)
    train(recipe(), tmp_path / "run")
    with pytest.raises(ResourceError, match="holds another run"):
        train(recipe(), tmp_path / "run")


@pytest.mark.parametrize("mode", ["freeze", "finetune"])
def test_a_image_that_breaks_while_decoding_is_set_aside_by_name(
    recipe: Callable[..., Recipe], data: Path, tmp_path: Path, mode: str
) -> None:
    victim = data / "ash" / "7.png"
    before = victim.read_bytes()[:1500]
    victim.write_bytes(before)
    Image.new("RGBA", (24, 24)).save(data / "birch" / "3.png")
    warnings: list[str] = []
    observer = Observer()
    observer.warn = warnings.append  # type: ignore[method-assign]
    result = train(recipe(mode), tmp_path / "run", observer=observer)
    assert result.set_aside == 1
    assert "ash/7.png" in warnings[0]
    remark = "images that are completely transparent, and so white: 1 (birch/3.png)"
    assert warnings[1:] == [remark]
    manifest = json.loads((result.run / "manifest.json").read_text())
    assert manifest["set_aside"][0]["path"] == "ash/7.png"
    assert remark in manifest["notes"]
    assert victim.read_bytes() == before
    with pytest.raises(DataError, match=r"7\.png"):
        train(recipe(mode, data={"on_bad_image": "fail"}), tmp_path / "strict")


@pytest.mark.parametrize("mode", ["freeze", "finetune"])
def test_a_image_whose_name_is_no_text_is_trained_on(
    recipe: Callable[..., Recipe], data: Path, tmp_path: Path, mode: str
) -> None:
    for number in range(2):
        try:
            (data / "ash" / f"{number}.png").rename(data / "ash" / os.fsdecode(b"\xff%d.png" % number))
        except OSError:
            pytest.skip("this file system takes text only")
    result = train(recipe(mode, train={} if mode == "freeze" else {"epochs": 1}), tmp_path / "run")
    assert (result.images, result.set_aside) == (9, 0)


def test_a_image_that_vanishes_during_training_ends_it_and_keeps_the_checkpoint(
    recipe: Callable[..., Recipe], data: Path, tmp_path: Path
) -> None:
    class Remove(Observer):
        def epoch(self, figures: Mapping[str, float]) -> None:
            (data / "birch" / "2.png").unlink(missing_ok=True)

    with pytest.raises(DataError, match=r"birch/2\.png"):
        train(recipe("finetune", data={"keep_images": False}), tmp_path / "run", observer=Remove())
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_divergence_stops_before_the_update(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gradients.Gradients._forward
    calls = 0

    def poisoned(self: gradients.Gradients, x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        logits = real(self, x)
        return logits * float("nan") if calls == 7 else logits

    monkeypatch.setattr(gradients.Gradients, "_forward", poisoned)
    with pytest.raises(DivergedError, match="diverged at step 7: loss nan") as diverged:
        train(recipe("finetune"), tmp_path / "run")
    assert diverged.value.exit_code == 6
    for path in (tmp_path / "run").rglob("*.safetensors"):
        assert all(t.isfinite().all() for t in load_file(path).values() if t.is_floating_point())


def test_frozen_means_frozen(recipe: Callable[..., Recipe], tiny_weights: Path, tmp_path: Path) -> None:
    result = train(recipe(), tmp_path / "run")
    before, after = load_file(tiny_weights), final_weights(result.run)
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("fc."))
    assert len(result.facts["frozen_sha256"]) == 64


def test_a_plan_writes_nothing(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    made = plan(recipe("finetune"), tmp_path / "run")
    assert made.seconds > 0
    assert made.trainable == made.total
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_linear_end_has_no_head_fitted(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    weights = tmp_path / "deit.pth"
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.save(timm.create_model("deit_tiny_distilled_patch16_224").state_dict(), weights)
    model = {"name": "deit_tiny_distilled_patch16_224", "weights": str(weights), "image_size": 224}
    with pytest.raises(UsageError, match="does not end in one linear classifier"):
        train(recipe(model=model), tmp_path / "run")
    observer = StopAfter("", 0)
    train(recipe("finetune", model=model, train={"steps": 1, "epochs": None}), tmp_path / "tuned", observer=observer)
    assert [note for note in observer.notes if note.startswith("the head starts at random: ")]


def test_no_data() -> None:
    with pytest.raises(UsageError, match="no data"):
        train(Recipe())


def test_every_mode_has_a_trainer() -> None:
    from typing import get_args

    from cnn_tl.core.choices import Mode
    from cnn_tl.training.run import MODES

    assert set(MODES) == set(get_args(Mode))


def test_a_run_folder_inside_the_data_is_refused(
    recipe: Callable[..., Recipe], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    before = sorted(data.rglob("*"))
    for output in (None, data / "ash" / "run"):
        with pytest.raises(UsageError, match="inside the data folder"):
            train(recipe(), output)
    assert sorted(data.rglob("*")) == before


def test_a_run_killed_before_its_recipe_is_no_run(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text("{}")
    (run / ".recipe.yaml.0a1b2c3d.tmp").write_text("half")
    assert train(recipe(), run).correct == 9
    assert not list(run.rglob("*.tmp"))


def test_features_of_other_weights_are_not_used(
    recipe: Callable[..., Recipe], tiny_weights: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.safetensors"
    chosen_sections = {"model": {"weights": str(mine)}, "train": {"batch_size": 8}}
    chosen = recipe(**chosen_sections)
    first = load_file(tiny_weights)
    save_file(first, mine)
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "run", observer=StopAfter("features", 24))
    save_file({name: t * 1.1 if t.is_floating_point() else t for name, t in first.items()}, mine)
    with pytest.raises(ArtefactError, match=r"weights from .*mine\.safetensors have changed since .*run was begun"):
        train(chosen, tmp_path / "run", resume=True)
    train(chosen, tmp_path / "anew")
    train(recipe(**chosen_sections, features={"cache": False}), tmp_path / "undisturbed")
    assert_same_weights(tmp_path / "anew", tmp_path / "undisturbed")


def test_a_run_does_not_go_on_with_other_weights(
    recipe: Callable[..., Recipe], tiny_weights: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.safetensors"
    chosen = recipe("auto", model={"weights": str(mine)})
    weights = load_file(tiny_weights)
    save_file(weights, mine)
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "run", observer=StopAfter("epoch 1", 9))
    changed = {name: t * 1.1 if t.is_floating_point() else t for name, t in weights.items()}
    save_file(changed, mine)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    with pytest.raises(ArtefactError, match="have changed since"):
        train(chosen, tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before
    save_file(weights, mine, {"another": "header"})
    train(chosen, tmp_path / "run", resume=True)


def test_weights_that_change_while_a_run_is_at_work_are_no_bug(
    recipe: Callable[..., Recipe], tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode auto builds the backbone a second time where the head alone is kept."""
    from cnn_tl.training.modes import lp_ft

    mine, weights = tmp_path / "mine.safetensors", load_file(tiny_weights)
    save_file(weights, mine)
    monkeypatch.setattr(lp_ft.compare_paired.__globals__["PairedComparison"], "more_than_chance", False)
    observer = Observer()
    changed = {name: t * 1.1 if t.is_floating_point() else t for name, t in weights.items()}
    observer.epoch = lambda row: save_file(changed, mine)  # type: ignore[method-assign,assignment,misc]
    with pytest.raises(ArtefactError, match="have changed during the run"):
        train(recipe("auto", model={"weights": str(mine)}), tmp_path / "run", observer=observer)


def test_a_stop_during_the_head_fit_is_heard(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn_tl.heads import logistic

    real = logistic.fit_all

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(logistic, "fit_all", interrupted)
    with pytest.raises(Stopped) as stopped:
        train(recipe(), tmp_path / "run")
    assert stopped.value.exit_code == 143
    assert not (tmp_path / "run" / "result.json").exists()


def test_logits_that_overflow_after_the_last_step_are_divergence(
    recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.optim.AdamW.step

    def overflow(self: torch.optim.AdamW, *rest: Any) -> Any:
        done = real(self, *rest)
        with torch.no_grad():
            self.param_groups[0]["params"][0].fill_(float("inf"))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    with pytest.raises(DivergedError):
        train(recipe("finetune", train={"batch_size": 64}), tmp_path / "run")
    kept = list((tmp_path / "run").rglob("*.safetensors"))
    assert {path.parent.name for path in kept} == {"best-00000"}, "the fitted head, from before the first step"
    assert all(t.isfinite().all() for path in kept for t in load_file(path).values() if t.is_floating_point())


def test_one_image_on_which_batch_normalisation_fails(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    model = {"name": "test_efficientnet", "image_size": 16}
    with pytest.raises(UsageError, match="larger --batch-size"):
        train(recipe("scratch", model=model, train={"batch_size": 1, "epochs": 1}), tmp_path / "run")


@pytest.mark.parametrize("text", ["{}", "[]", "{"])
def test_a_damaged_result_is_said(recipe: Callable[..., Recipe], tmp_path: Path, text: str) -> None:
    (train(recipe(), tmp_path / "run").run / "result.json").write_text(text)
    with pytest.raises(ArtefactError, match="result"):
        train(recipe(), tmp_path / "run", resume=True)


def test_a_changed_result_is_not_given_as_the_run_s(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    first = train(recipe(), tmp_path / "run")
    path = tmp_path / "run" / "result.json"
    path.write_text(path.read_text().replace(f'"accuracy": {first.accuracy}', '"accuracy": 0.123'))
    with pytest.raises(ArtefactError, match=r"result\.json has changed since .*; remove it, and this writes it again"):
        train(recipe(), tmp_path / "run", resume=True)
    path.unlink()
    again = train(recipe(), tmp_path / "run", resume=True)
    assert again.accuracy == first.accuracy
    assert train(recipe(), tmp_path / "run", resume=True) == again


def test_a_damaged_model_of_a_finished_run_is_said(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = train(recipe(), tmp_path / "run").run
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"model of this finished run is damaged.*remove .*result\.json"):
        train(recipe(), run, resume=True)
    (run / "result.json").unlink()
    train(recipe(), run, resume=True)
    bundle.load(run)


def warned() -> tuple[Observer, list[str]]:
    observer, warnings = Observer(), list[str]()
    observer.warn = warnings.append  # type: ignore[method-assign]
    return observer, warnings


def test_a_run_of_an_earlier_version_goes_on_with_a_warning(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(recipe("finetune"), run, observer=StopAfter("epoch 2", 20))
    (run / "digests.json").unlink()
    observer, warnings = warned()
    train(recipe("finetune"), run, resume=True, observer=observer)
    [warning] = warnings
    assert "digests.json is missing (earlier versions wrote none)" in warning
    train(recipe("finetune"), run, resume=True, observer=observer)
    assert len(warnings) == 1, "from now on it is checked"


def test_lost_checkpoints_are_said(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(recipe("finetune"), run)
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints")
    observer, warnings = warned()
    assert train(recipe("finetune"), run, resume=True, observer=observer).accuracy == first.accuracy
    [warning] = warnings
    assert "there is no checkpoint in" in warning
    assert "what had been trained is lost" in warning


def test_a_checkpoint_that_does_not_fit_the_recipe_is_refused(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """A run without digests, whose recipe was edited."""
    run = tmp_path / "run"
    with pytest.raises(Stopped):
        train(recipe("scratch"), run, observer=StopAfter("epoch 2", 20))
    (run / "digests.json").unlink()
    for changes in ({"model": {"name": "test_vit"}}, {"train": {"batch_size": 36}}):
        edited = recipe("scratch", **changes)
        (run / "recipe.yaml").write_text(to_yaml(edited.resolve()))
        (run / "digests.json").unlink(missing_ok=True)
        with pytest.raises(ArtefactError, match=r"the checkpoints in .* do not fit the recipe beside them"):
            train(edited, run, resume=True)


def test_a_plan_knows_what_is_kept_and_that_a_head_takes_time(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    kept = plan(recipe(), tmp_path / "run").features
    private = plan(recipe(features={"cache": False}), tmp_path / "run").features
    assert kept is not None
    assert private is not None
    assert kept.bytes > private.bytes == 0
    short, long = (
        plan(recipe(head={"kind": "adamw", "epochs": epochs}), tmp_path / "run").seconds for epochs in (1, 10_000)
    )
    assert long > short + 10


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str | None, bool]]]:
    """Note of each forward pass what cuBLAS would be told, and whether torch takes deterministic kernels."""
    variable = "CUBLAS_WORKSPACE_CONFIG"
    monkeypatch.setenv(variable, "")  # so that it is as before in the end
    monkeypatch.delenv(variable)
    seen: list[tuple[str | None, bool]] = []

    def note(module: torch.nn.Module, arguments: Any) -> None:
        seen.append((os.environ.get(variable), torch.are_deterministic_algorithms_enabled()))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield seen
    hook.remove()


@pytest.mark.parametrize("work", [*MODES, "plan", "find_lr"])
def test_kernels_are_deterministic_from_the_first_forward_pass_on(
    recipe: Callable[..., Recipe],
    tmp_path: Path,
    forward_passes: list[tuple[str | None, bool]],
    monkeypatch: pytest.MonkeyPatch,
    work: str,
) -> None:
    """cuBLAS reads its variable at the first product of matrices, which the plan may make."""
    monkeypatch.setattr("cnn_tl.training.run.may_be_gpu", lambda wanted: True)  # a frozen network needs it on a GPU
    chosen = recipe(work if work in MODES else "scratch", run={"deterministic": True})
    if work == "find_lr":
        find_lr(chosen)
    elif work == "plan":
        plan(chosen, tmp_path / "run")
    else:
        train(chosen, tmp_path / "run")
    assert set(forward_passes) == {(":4096:8", True)}
    assert not torch.are_deterministic_algorithms_enabled()
