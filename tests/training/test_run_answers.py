"""The answers of a finished run: those of its file, one to each validation image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cnn_tl.core.errors import ArtefactError
from cnn_tl.training.run_answers import answers_of_run
from cnn_tl.training.run_folder import RunFolder

OLD_RUN = Path(__file__).parents[1] / "fixtures" / "runs_0_1" / "freeze"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(OLD_RUN, tmp_path / "run")))


def test_each_validation_image_has_an_answer(run: RunFolder) -> None:
    assert len(answers_of_run(run)) == 6


@pytest.mark.parametrize("kept", [slice(0, 3), slice(0, 0), [0, 1, 2, 3, 4, 4]], ids=["cut", "empty", "twice"])
def test_other_images_than_those_of_the_manifest_are_damage(run: RunFolder, kept: slice | list[int]) -> None:
    lines = run.validation.read_text("utf-8").splitlines(keepends=True)
    some = lines[kept] if isinstance(kept, slice) else [lines[i] for i in kept]
    run.validation.write_text("".join(some), "utf-8")
    with pytest.raises(ArtefactError, match="one answer to each of the 6 validation images"):
        answers_of_run(run)
