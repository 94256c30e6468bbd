"""Which run `--resume` takes where none is named, and what it says of the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_tl import recipe as recipes
from cnn_tl.core.errors import ArtefactError, ResourceError
from cnn_tl.core.files import write_json, write_text
from cnn_tl.recipe import Recipe
from cnn_tl.training import run_index
from cnn_tl.training.checkpoints import digests
from cnn_tl.training.run import train
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.run_index import begun_by, stopped_twin, to_resume

Begin = Callable[..., RunFolder]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Write run folders as `train` leaves them, each started a second after the one before."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    seconds = iter(range(1_700_000_000, 1_800_000_000))

    def make(
        path: str, data: str = "pets", mode: str = "finetune", epochs: int = 5, finished: bool = False, **more: object
    ) -> RunFolder:
        run = RunFolder(Path(path))
        own = Recipe.model_validate({"data": {"path": data}, "mode": mode, "train": {"epochs": epochs}} | more)
        own = own if mode != "freeze" else Recipe.model_validate({"data": {"path": data}})
        digests.write(run.recipe, recipes.to_yaml(own.resolve()))
        when = next(seconds)
        os.utime(run.recipe, (when, when))
        if finished:
            write_json(run.result, {})
        run_index.remember(run.path)
        return run

    return make


def test_a_stopped_run_is_found_by_any_name_behind_a_finished_newer_one(begin: Begin) -> None:
    for name in ("runs/cc", "runs/2026-11-27", "experiments/lr 3e-4", "../elsewhere/x"):
        stopped = begin(name)
        finished = begin(f"{name}-later", finished=True)
        chosen = to_resume()
        expected = stopped.path.resolve() if name.startswith("..") else stopped.path
        assert chosen.path == expected
        assert chosen.notes[0] == f"resuming {expected}, the newest run that can be resumed"
        passed = finished.path.resolve() if name.startswith("..") else finished.path
        assert chosen.notes[1] == f"passed over, though newer: {passed} (finished)"


def test_runs_of_other_places_are_named_and_not_taken(
    begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("runs/a")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(ArtefactError) as caught:
        to_resume()
    assert str(caught.value) == (
        "there is no run to resume here; name it with --output RUN; begun elsewhere and not finished: "
        f"cnn-tl train --resume --output {tmp_path / 'here' / 'runs' / 'a'}"
    )


def test_damaged_and_busy_runs_are_passed_over_and_named(begin: Begin) -> None:
    good = begin("runs/good")
    changed, damaged, busy = begin("runs/changed"), begin("runs/damaged"), begin("runs/busy")
    with changed.recipe.open("a") as stream:
        stream.write("seed: 7\n")
    os.utime(changed.recipe, (1_700_000_001, 1_700_000_001))
    write_text(damaged.checkpoints / "step-00000001-00000" / "SHA256SUMS", f"{'0' * 64}  model.safetensors\n")
    with busy.locked():
        chosen = to_resume()
        assert to_resume(several=True).path == busy.path, "a process beside this one holds it for all of them"
    assert chosen.path == good.path
    assert chosen.notes[1] == (
        "passed over, though newer: runs/busy (another process is training it), runs/damaged (every checkpoint in it "
        "is damaged), runs/changed (runs/changed/recipe.yaml has changed since the run wrote it)"
    )
    assert to_resume().path == busy.path, "the lock is free again"


def test_where_every_run_has_finished_the_newest_is_shown(begin: Begin) -> None:
    begin("runs/first", finished=True)
    begin("runs/second", finished=True)
    chosen = to_resume()
    assert chosen.path == Path("runs/second")
    assert chosen.notes == ("no run here is unfinished; the newest finished one is runs/second",)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(None, "runs/long"), (4, "runs/done"), (3, "runs/stopped"), (20, "runs/done")],
)
def test_a_finished_run_can_be_made_longer_not_shorter(begin: Begin, epochs: int | None, expected: str) -> None:
    begin("runs/stopped", epochs=3)
    begin("runs/long", epochs=50)
    begin("runs/done", epochs=3, finished=True)
    assert to_resume(epochs=epochs).path == Path(expected)
    with pytest.raises(ArtefactError, match=r"runs/done \(it is to last 3 epochs\), runs/long \(it is to last 50"):
        to_resume(epochs=2)


def test_data_and_mode_are_those_of_the_recipe_whatever_the_folder_is_called(begin: Begin) -> None:
    begin("runs/x", data="pets", mode="scratch")
    begin("runs/y", data="cars")
    begin("runs/pets-freeze", data="cars", mode="scratch")
    assert to_resume("pets").path == Path("runs/x")
    assert to_resume("./cars/", "finetune").path == Path("runs/y")
    assert to_resume(mode="scratch").path == Path("runs/pets-freeze")
    assert to_resume("moved/cars", "finetune").path == Path("runs/y"), "by its name, where no run has that very place"
    with pytest.raises(ArtefactError, match=r"there is no run of pets in mode lp-ft to resume here; name it"):
        to_resume("pets", "lp-ft")


def test_of_two_data_folders_of_one_name_the_one_that_is_meant(begin: Begin) -> None:
    begin("runs/first", data="a/pets")
    begin("runs/second", data="b/pets")
    assert to_resume("a/pets").path == Path("runs/first")


def test_one_damaged_run_alone_says_what_is_wrong_and_what_to_do(begin: Begin) -> None:
    begin("runs/only").recipe.write_text("mode: finetune\n")
    with pytest.raises(ArtefactError, match=r"has changed since the run wrote it; restore it, or begin another run"):
        to_resume()


def test_the_twin_of_a_command_has_its_recipe_and_was_stopped(begin: Begin) -> None:
    recipe = Recipe.model_validate({"data": {"path": "pets"}, "mode": "finetune", "train": {"epochs": 5}}).resolve()
    assert stopped_twin(recipe) is None
    begin("runs/pets-finetune", finished=True)
    begin("runs/other-rate", seed=3)
    begin("runs/other-data", data="b/pets")
    assert stopped_twin(recipe) is None
    twin = begin("runs/cc")
    found = stopped_twin(recipe)
    assert found is not None
    assert found.path == twin.path
    with twin.locked():
        assert stopped_twin(recipe) is None, "it is at work"


def test_the_same_command_into_its_own_stopped_run_says_how_to_resume(begin: Begin) -> None:
    recipe = Recipe.model_validate({"data": {"path": "pets"}, "mode": "finetune", "train": {"epochs": 5}})
    same = r"^runs/cc was begun by the same command and can be resumed: cnn-tl train --resume --output runs/cc; or "
    begin("runs/cc")
    with pytest.raises(ResourceError, match=same):
        train(recipe, "runs/cc")
    for other in (begin("runs/rate", seed=3), begin("runs/done", finished=True)):
        with pytest.raises(ResourceError, match="holds another run; go on with it"):
            train(recipe, other.path)


def test_a_run_knows_its_launch(begin: Begin) -> None:
    run = begin("runs/pets-freeze", data="some/pets", mode="freeze")
    run.write_launch("job 7")
    assert begun_by("job 7", "some/pets", "freeze") == run.path
    assert begun_by("job 8", "some/pets", "freeze") is begun_by("job 7", "cars", "freeze") is None


def test_the_list_forgets_and_survives_rubbish(begin: Begin, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_index, "REMEMBERED", 3)
    for number in range(5):
        begin(f"../elsewhere/{number}")
    entries = own_cache / "runs"
    assert len(list(entries.iterdir())) == 3
    for number, text in enumerate(["", "[]", '{"run": 3}', '{"run": "/nowhere", "begun_in": "/"}', "\0"]):
        (entries / f"{number}.json").write_text(text)
    assert to_resume().path.name == "4"
    monkeypatch.setenv("CNN_TL_CACHE", "/dev/null/no folder")
    run_index.remember(Path("x"))
    with pytest.raises(ArtefactError, match="no run to resume here"):
        to_resume()


def test_a_vanished_working_directory_has_no_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ArtefactError, match="no run to resume here"):
        to_resume()
