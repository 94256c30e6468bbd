"""What is said about a run whose training differs from the heads of the curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnn_tl.advising.learning_curve.report import _notes
from cnn_tl.doctor.subject import Subject, features_only
from cnn_tl.training.run_folder import RunFolder


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("mode: freeze\n", ""),
        ("mode: freeze\nhead: {kind: ridge}\n", "the run has --head ridge"),
        ("mode: freeze\nhead: {class_weights: balanced}\n", "unweighted"),
        ("mode: finetune\n", "the run is of mode finetune"),
        ("mode: lp-ft\n", "the run is of mode lp-ft"),
        ("mode: scratch\n", "trained from scratch"),
    ],
)
def test_a_run_that_was_trained_otherwise(tmp_path: Path, recipe: str, said: str) -> None:
    (tmp_path / "recipe.yaml").write_text(f"{recipe}data: {{path: photos}}\n", "utf-8")
    folder = RunFolder(tmp_path)
    own = folder.own_recipe()
    notes = _notes(Subject(features_only(own), folder))
    assert len(notes) == bool(said)
    assert said in "".join(notes)


def test_a_folder_has_no_notes() -> None:
    from cnn_tl import recipe as recipes

    chosen = recipes.load(None, ["mode=freeze"], {"data.path": "photos"})
    assert _notes(Subject(features_only(chosen))) == []
