"""What a run folder holds is what the run wrote, or the run does not go on."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, ResourceError
from cnn_tl.training.checkpoints import digests
from cnn_tl.training.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    digests.write(made.recipe, "mode: freeze\ntrain: {batch_size: 8}\n", weights={"backbone": "aa", "file": "bb"})
    return made


@pytest.mark.parametrize("text", ["", "mode: freeze\n", "mode: freeze\ntrain: {batch_size: 9}\n"])
def test_a_recipe_that_is_not_the_run_s(run: RunFolder, text: str) -> None:
    run.require_run()
    run.recipe.write_text(text)
    with pytest.raises(ArtefactError, match=r"recipe\.yaml has changed since the run wrote it; restore it, or begin"):
        run.require_run()


@pytest.mark.parametrize(
    "text",
    [
        "[]", "{", '{"weights": 3}', '{"weights": {}}', '{"recipe.yaml": null}', '{"recipe.yaml": 3}',
        '{"recipe.yaml": [3]}',
    ],
)  # fmt: skip
def test_digests_that_are_damaged(run: RunFolder, text: str) -> None:
    (run.path / digests.DIGESTS).write_text(text)
    with pytest.raises(ArtefactError, match=r"digests\.json is damaged"):
        run.require_run()


def test_a_folder_without_digests_is_believed(run: RunFolder) -> None:
    (run.path / digests.DIGESTS).unlink()
    run.recipe.write_text("mode: scratch\n")
    run.require_run()
    digests.check_weights(run.path, {"backbone": "cc"}, "weights")
    run.recipe.write_text("mode: [")
    with pytest.raises(ArtefactError, match="restore this run's recipe"):
        run.own_recipe()


def test_the_weights_are_known_by_their_file_or_by_the_backbone(run: RunFolder) -> None:
    digests.check_weights(run.path, {"backbone": "aa"}, "weights")
    digests.check_weights(run.path, {"backbone": "aa", "file": "cc"}, "weights")
    digests.check_weights(run.path, {"backbone": "cc", "file": "bb"}, "weights")
    with pytest.raises(ArtefactError, match=r"my weights have changed since .*aa then, cc now.*another --output"):
        digests.check_weights(run.path, {"backbone": "cc", "file": "dd"}, "my weights")


@pytest.mark.parametrize("from_earlier_version", [False, True])
@pytest.mark.parametrize("killed_at", [0, 1, 2, 3])
def test_a_kill_between_two_writes_leaves_a_folder_that_goes_on(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, killed_at: int, from_earlier_version: bool
) -> None:
    if from_earlier_version:
        (run.path / digests.DIGESTS).unlink()
    written: list[str] = []
    whole = files.write_bytes

    def write(path: Path, data: bytes) -> None:
        if len(written) == killed_at:
            raise KeyboardInterrupt
        written.append(path.name)
        whole(path, data)

    before, after = run.recipe.read_text(), "mode: freeze\nseed: 5\n"
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_bytes", write)
        try:
            digests.write(run.recipe, after, weights={"backbone": "aa"})
        except KeyboardInterrupt:
            assert killed_at < 3
    run.require_run()
    assert run.recipe.read_text() == (before if killed_at < 2 else after)
    digests.write(run.recipe, after, weights={"backbone": "aa"})
    run.require_run()
    assert len(json.loads((run.path / digests.DIGESTS).read_text())["recipe.yaml"]) == 1


def test_digests_without_a_recipe_are_of_a_run_that_was_killed_before_it_began(run: RunFolder) -> None:
    run.recipe.unlink()
    run.require_new()


def full(path: Path) -> None:
    with files.disk_errors(path):
        raise OSError(errno.ENOSPC, "No space left on device")


def full_elsewhere(path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.mark.parametrize("fail", [full, full_elsewhere])
def test_a_full_disk_says_how_to_go_on(run: RunFolder, fail: Callable[[Path], None]) -> None:
    with (
        pytest.raises(ResourceError, match=r"no space .*state\.json.*; once there is room, go on with: cnn-tl train"),
        run.outlives_a_full_disk(),
    ):
        fail(run.path / "state.json")
    said = pytest.raises(ResourceError, match=r"choose another --output$")
    with said, run.outlives_a_full_disk(), files.disk_errors(run.path):
        raise OSError(errno.EROFS, "Read-only file system")
