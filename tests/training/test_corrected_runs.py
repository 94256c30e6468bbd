"""Runs with data.exclude, data.relabel and data.groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_runs import StopAfter, assert_same_weights

from cnn_tl.core import files
from cnn_tl.core.errors import DataError, RecipeError, Stopped
from cnn_tl.core.progress import Observer, Plan
from cnn_tl.data.corrections import RELABEL_HEADER, exclude_line, relabel_row
from cnn_tl.data.manifest import Manifest
from cnn_tl.heads import HEADS, Problem
from cnn_tl.recipe import Recipe, ResolvedRecipe
from cnn_tl.training.outcome import DataFacts, Facts
from cnn_tl.training.run import find_lr, plan, train

MakeRecipe = Callable[..., Recipe]


def manifest_of(run: Path) -> Manifest:
    return Manifest.from_json(files.read_json(run / "manifest.json"))


def names(data: Path, name: str) -> list[str]:
    return [f"{name}/{path.name}" for path in sorted((data / name).iterdir())]


def pairs(manifest: Manifest) -> dict[str, str]:
    """Return a group for each two images that follow each other."""
    return {image.path: f"pair {place // 2}" for place, image in enumerate(manifest.images)}


class Twins:
    """A finder that counts how often it is asked."""

    def __init__(self) -> None:
        self.seen: list[tuple[Manifest, Observer]] = []

    def __call__(self, manifest: Manifest, observer: Observer, recipe: ResolvedRecipe) -> dict[str, str]:
        self.seen.append((manifest, observer))
        return pairs(manifest)


def fitted_with(monkeypatch: pytest.MonkeyPatch) -> list[Problem]:
    """Return a list that receives each problem of `--head auto`."""
    problems: list[Problem] = []
    before = HEADS["auto"]

    def fit(problem: Problem, settings: Any) -> Any:
        problems.append(problem)
        return before(problem, settings)

    monkeypatch.setitem(HEADS, "auto", fit)
    return problems


def test_manifest_plan_and_result_say_what_was_done(recipe: MakeRecipe, data: Path, tmp_path: Path) -> None:
    (tmp_path / "exclude.txt").write_text("# extra\n" + "".join(map(exclude_line, names(data, "ash")[:3])))
    (tmp_path / "relabel.csv").write_text(RELABEL_HEADER + relabel_row(names(data, "birch")[0], "cedar"))
    chosen = recipe(data={"exclude": str(tmp_path / "exclude.txt"), "relabel": str(tmp_path / "relabel.csv"),
                          "groups": "twins"})  # fmt: skip
    planned = plan(chosen, tmp_path / "plan", find_twins=Twins())
    plans: list[Plan] = []
    observer = Observer()
    observer.plan = plans.append  # type: ignore[method-assign]
    result = train(chosen, tmp_path / "run", observer=observer, find_twins=Twins())
    expected = DataFacts(excluded=3, relabelled=1, groups=21, grouped=42, kept_apart=0)
    assert Facts.from_dict(result.facts).data == expected
    assert result.facts["data"]["groups"] == 21
    assert files.read_json(result.run / "result.json")["facts"]["data"] == result.facts["data"]
    assert plans[0].corrections == planned.corrections == result.facts["data"]
    assert result.set_aside == 0
    manifest = manifest_of(result.run)
    assert [one.path for one in manifest.excluded] == names(data, "ash")[:3]
    assert [one.path for one in manifest.relabelled()] == names(data, "birch")[:1]
    splits: dict[str, set[str]] = {}
    for image in manifest.images:
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(own) == 1 for own in splits.values())


def test_a_run_without_corrections_says_nothing_of_them(recipe: MakeRecipe, tmp_path: Path) -> None:
    result = train(recipe(), tmp_path / "run")
    assert "data" not in result.facts
    assert Facts.from_dict(result.facts).data is None


@pytest.mark.parametrize("mode", ["freeze", "finetune", "lp-ft"])
def test_heads_are_fitted_with_the_groups(
    recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    problems = fitted_with(monkeypatch)
    result = train(recipe(mode, data={"groups": "twins"}), tmp_path / "run", find_twins=Twins())
    [problem] = problems
    images = manifest_of(result.run).of("train")
    assert problem.groups is not None
    by_label = sorted(images, key=lambda image: image.label)
    for order in (images, by_label):  # a loop takes them class by class
        if [image.label for image in order] == list(problem.labels):
            alike = problem.groups[:, None] == problem.groups
            same = np.array([[one.group == other.group for other in order] for one in order])
            np.testing.assert_array_equal(alike, same)
            return
    pytest.fail("the labels are those of the training images")


def test_without_groups_heads_hear_of_none(recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = fitted_with(monkeypatch)
    finder = Twins()
    train(recipe(), tmp_path / "run", find_twins=finder)
    train(recipe(data={"groups": "twins"}), tmp_path / "other")
    assert [problem.groups for problem in problems] == [None, None], "no file is a copy of another"
    assert finder.seen == []


def test_a_resumed_run_does_not_look_for_twins_again(recipe: MakeRecipe, tmp_path: Path) -> None:
    chosen = recipe("finetune", data={"groups": "twins"})
    finder = Twins()
    observer = StopAfter("epoch 2", 20)
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "run", observer=observer, find_twins=finder)
    [(manifest, heard)] = finder.seen
    assert heard is observer
    assert {image.split for image in manifest.images} == {"train"}
    before = manifest_of(tmp_path / "run")
    train(chosen, tmp_path / "run", resume=True, find_twins=finder)
    assert len(finder.seen) == 1
    assert manifest_of(tmp_path / "run") == before
    train(chosen, tmp_path / "whole", find_twins=finder)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("key", ["exclude", "relabel", "groups"])
def test_changed_files_are_refused(recipe: MakeRecipe, data: Path, tmp_path: Path, key: str) -> None:
    ash = names(data, "ash")
    contents = {"exclude": (exclude_line(ash[0]), exclude_line(ash[1])),
                "relabel": [RELABEL_HEADER + relabel_row(ash[0], name) for name in ("birch", "cedar")],
                "groups": [f"image,group\n{ash[0]},1\n{other},1\n" for other in ash[1:3]]}[key]  # fmt: skip
    file = tmp_path / f"{key}.csv"
    file.write_text(contents[0])
    chosen = recipe("finetune", data={key: str(file)})
    with pytest.raises(Stopped):
        train(chosen, tmp_path / "run", observer=StopAfter("epoch 2", 20))
    file.write_text(contents[1])
    with pytest.raises(DataError, match="has changed since"):
        train(chosen, tmp_path / "run", resume=True)
    file.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        train(chosen, tmp_path / "run", resume=True)
    file.write_text(f"{contents[0]}\n")  # other bytes that say the same
    assert train(chosen, tmp_path / "run", resume=True).facts["resumed"]


def test_other_settings_are_refused(recipe: MakeRecipe, tmp_path: Path) -> None:
    train(recipe(data={"groups": r"(\d)\.png"}), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"another recipe \(data.groups: .* -> null\)"):
        train(recipe(), tmp_path / "run", resume=True)


def test_a_range_test_looks_for_twins_too(recipe: MakeRecipe, data: Path) -> None:
    finder = Twins()
    find_lr(recipe("finetune", data={"groups": "twins"}), find_twins=finder)
    assert len(finder.seen) == 1


@pytest.mark.parametrize("groups", ["(", "[a", "*"])
def test_a_pattern_that_is_none(groups: str) -> None:
    with pytest.raises(RecipeError, match=r"data\.groups") as caught:
        Recipe(data={"groups": groups})  # type: ignore[arg-type]
    assert "a regular expression" in str(caught.value)
