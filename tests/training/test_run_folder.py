from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cnn_tl.core.errors import ArtefactError, ResourceError
from cnn_tl.training.run_folder import RunFolder, default_output


def test_a_folder_with_anything_in_it_is_not_new(tmp_path: Path) -> None:
    RunFolder(tmp_path / "absent").require_new()
    RunFolder(tmp_path).require_new()
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ResourceError, match="not empty and is no run"):
        RunFolder(tmp_path).require_new()
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(ResourceError, match="--resume"):
        RunFolder(tmp_path).require_new()
    with pytest.raises(ResourceError, match="is a file"):
        RunFolder(tmp_path / "photo.jpg").require_new()


def test_two_processes_and_a_dead_one(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\nfrom cnn_tl.training.run_folder import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1])).locked():\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ResourceError, match="another process"), RunFolder(tmp_path).locked():
            pass
        other.kill()
    with RunFolder(tmp_path).locked():
        (tmp_path / "recipe.yaml").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "recipe.yaml"]


def test_a_run_that_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "first")
    with pytest.raises(ArtefactError), run.locked():
        raise ArtefactError("no weights")
    assert not run.path.parent.exists()
    with run.locked():
        run.write_launch("job 7")
    assert not run.path.parent.exists()
    run.require_new()


def test_a_run_knows_the_launch_that_began_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(Path("runs/pets-freeze"))
    run.write_launch("job 7")
    assert not run.belongs_to("job 7"), "killed before it began"
    run.require_new()
    run.recipe.touch()
    assert run.belongs_to("job 7")
    assert not run.belongs_to("job 8")
    run.write_launch("")
    assert not run.belongs_to("job 7")


def test_default_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = default_output("some/pets", "freeze")
    assert first == Path("runs/pets-freeze")
    first.mkdir(parents=True)
    (first / "recipe.yaml").touch()
    assert default_output("some/pets/", "freeze") == Path("runs/pets-freeze-2")
