"""`train --resume` where the run was stopped early, or the working directory is another one now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnn_tl.core import files
from cnn_tl.recipe import load
from cnn_tl.training import run as train
from cnn_tl.training import setup
from cnn_tl.training.run_folder import RunFolder

Cli = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path, make_images: Callable[..., Path], tiny_weights: Path, monkeypatch: Any) -> Path:
    """Work in a folder that holds the data and the weights."""
    place = tmp_path / "project"
    make_images(place / "photos" / "insects", {"ant": 3, "bee": 3})
    shutil.copy(tiny_weights, place / "tiny.safetensors")
    monkeypatch.chdir(place)
    return place


COMMAND = ("photos/insects", "--model", "test_resnet", "--weights", "tiny.safetensors", "--device", "cpu", "--seed", 7)


def stopped(cli: Cli, module: Any, name: str, *options: object) -> None:
    """Begin a run, and let the process end where it calls a function."""

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, kill)
        assert cli("train", *COMMAND, *options).code == 130


@pytest.mark.parametrize("where", ["scan", "digests"])
@pytest.mark.parametrize("again", [("--output", "run"), ("--output", "run", *COMMAND), ()], ids=["run", "all", "alone"])
def test_stopped_before_the_recipe_was_written(cli: Cli, project: Path, where: str, again: tuple[str, ...]) -> None:
    output = ("--output", "run") if "run" in again else ()
    run = RunFolder(project / ("run" if output else "runs/insects-freeze"))
    if where == "scan":  # a kill leaves what an interruption clears away
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunFolder, "_remove_if_unused", lambda self, with_parent: None)
            stopped(cli, setup, "scan", *output)
    else:
        stopped(cli, setup.digests, "write", *output)
    assert run.never_began
    done = cli("train", "--resume", *again)
    assert done.code == 0, done.err
    assert "was stopped before it began" in " ".join(done.err.split())
    assert load(run.recipe).seed == 7
    assert run.result.exists()
    assert not run.never_began
    assert not run.draft.exists()


def test_without_what_it_was_told_the_command_is_asked_for(cli: Cli, project: Path) -> None:
    Path("run").mkdir()
    Path("run/.lock").touch()
    asked = cli("train", "--resume", "--output", "run")
    assert (asked.code, asked.err.count("\n") <= 2) == (2, True)
    assert "give the whole command again: cnn-tl train DATA --output run" in " ".join(asked.err.split())
    Path("run/mine.txt").touch()
    assert cli("train", "--resume", "--output", "run", *COMMAND).code == 4


def test_data_and_weights_are_found_from_another_directory(cli: Cli, project: Path, monkeypatch: Any) -> None:
    stopped(cli, train, "_plan_and_run", "--output", "run")
    elsewhere = project.parent / "elsewhere"
    (elsewhere / "photos" / "insects").mkdir(parents=True)  # of the same name, and another
    monkeypatch.chdir(elsewhere)
    done = cli("train", "--resume", "--output", project / "run")
    assert done.code == 0, done.err
    assert files.read_json(project / "run" / "manifest.json")["root"] == str(project / "photos" / "insects")
    assert cli("train", "--resume", "--output", project / "run").code == 0


def test_files_of_corrections_are_found_from_another_directory(cli: Cli, project: Path, monkeypatch: Any) -> None:
    first, second, *_ = (f"ant/{path.name}" for path in sorted((project / "photos/insects/ant").iterdir()))
    Path("lists").mkdir()
    Path("lists/relabel.csv").write_text(f"image,label\n{first},bee\n")
    Path("groups.csv").write_text(f"image,group\n{first},1\n{second},1\n")
    Path("exclude.txt").write_text("# nothing\n")
    given = {"relabel": "lists/relabel.csv", "groups": "groups.csv", "exclude": "exclude.txt"}
    options = [part for key, name in given.items() for part in ("--set", f"data.{key}={name}")]
    stopped(cli, train, "_plan_and_run", "--output", "run", *options)
    monkeypatch.chdir(project.parent)
    done = cli("train", "--resume", "--output", project / "run", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["facts"]["data"] | {"kept_apart": 0} == {
        "excluded": 0, "relabelled": 1, "groups": 1, "grouped": 2, "kept_apart": 0
    }  # fmt: skip
    assert load(project / "run" / "recipe.yaml").data.relabel == "lists/relabel.csv"


def test_a_project_that_was_moved_is_read_where_it_is(cli: Cli, project: Path, monkeypatch: Any) -> None:
    stopped(cli, train, "_plan_and_run", "--output", "run")
    moved = project.rename(project.parent / "moved")
    monkeypatch.chdir(moved)
    done = cli("train", "--resume", "--output", "run")
    assert done.code == 0, done.err
    assert files.read_json(moved / "run" / "manifest.json")["root"] == str(moved / "photos" / "insects")


def test_named_splits_are_found_again(cli: Cli, project: Path, make_images: Any, monkeypatch: Any) -> None:
    make_images(project / "photos" / "more", {"ant": 2, "bee": 2}, seed=1)
    _, *rest = COMMAND
    named = ("--set", "data.train=photos/insects", "--set", "data.val=photos/more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_plan_and_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert cli("train", *rest, *named, "--output", "run").code == 130
    manifest = files.read_json(project / "run" / "manifest.json")
    assert manifest["splits"] == {"train": "insects", "val": "more"}
    assert manifest["root"] == str(project / "photos")
    monkeypatch.chdir(project.parent)
    done = cli("train", "--resume", "--output", project / "run")
    assert done.code == 0, done.err
    assert files.read_json(project / "run" / "manifest.json")["splits"] == {"train": "insects", "val": "more"}
