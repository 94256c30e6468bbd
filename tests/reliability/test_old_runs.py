"""What version 0.1.0 wrote still works: run folders, answers, exports and recipes; and so do its flags.

tests/fixtures/runs_0_1 holds run folders of commit 026e9be, and in expected.json what that version made of them;
README.md there says how they were made.
"""

from __future__ import annotations

import csv
import inspect
import io
import json
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_network  # noqa: F401 - the network of the runs, which timm knows once it is imported
import typer.main
import yaml

import cnn_tl
from cnn_tl import recipe as recipes
from cnn_tl.cli import app
from cnn_tl.core.errors import DataError
from cnn_tl.evaluating import benchmark
from cnn_tl.recipe.settings import RETIRED_KEYS

Cli = Callable[..., Any]

FIXTURES = Path(__file__).parents[1] / "fixtures" / "runs_0_1"
EXPECTED: dict[str, Any] = json.loads((FIXTURES / "expected.json").read_text())
INTERFACE: dict[str, Any] = json.loads((FIXTURES / "interface.json").read_text())
OLD_RECIPES = sorted((FIXTURES / "recipes").glob("*.yaml"))

FINISHED_RUN = {"recipe.yaml", "manifest.json", "metrics.jsonl", "metrics.csv", "validation.jsonl", "result.json"}
FINISHED_RUN |= {"digests.json", "model"}
TOLERANCE = 2e-3
"""Of a probability and of a loss: processors round differently, and a few dozen steps make more of it."""

REFITTED = 0.2
"""The same for a run whose head this version fits: it scales features in another way, and takes the mean of two."""

NEW_COLUMNS = ("verdict", "set", "distance")
"""Those that version 0.1 did not write."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the fixture: the runs have moved, as has the data that their recipes name."""
    copy = shutil.copytree(FIXTURES, tmp_path / "project")
    monkeypatch.chdir(copy)
    return copy


def done(outcome: Any) -> Any:
    assert outcome.code == 0, outcome.err
    return outcome


def probabilities(text: str) -> dict[str, dict[str, float]]:
    """Return for each file the probability of each class, the most probable first."""
    rows = csv.DictReader(io.StringIO(text))
    keys = (("label", "probability"), ("label_2", "probability_2"), ("label_3", "probability_3"))
    return {row["file"]: {row[label]: float(row[value]) for label, value in keys} for row in rows}


def assert_same_answers(text: str, expected: str, tolerance: float = TOLERANCE) -> None:
    ours_first, theirs_first = (
        [name for name in text.splitlines()[0].split(",") if name not in NEW_COLUMNS] for text in (text, expected)
    )
    assert ours_first == theirs_first, "the columns"
    ours, theirs = probabilities(text), probabilities(expected)
    assert list(ours) == list(theirs)
    for file, old in theirs.items():
        assert ours[file] == pytest.approx(old, abs=tolerance), file
        first, second, _ = old.values()
        if first - second > 2 * tolerance:
            assert next(iter(ours[file])) == next(iter(old)), file


def assert_same_metrics(run: Path, expected: list[dict[str, float]], tolerance: float) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == len(expected)
    for row, old in zip(rows, expected, strict=True):
        assert {name: row[name] for name in old} == pytest.approx(old, abs=tolerance)


def assert_same_evaluation(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    for name in ("classes", "confusion", "trained_on", "correct", "baseline_class"):
        assert found[name] == expected[name], name
    for name in ("accuracy", "interval", "baseline", "balanced_accuracy", "log_loss", "calibration_error"):
        assert found[name] == pytest.approx(expected[name], abs=tolerance), name


def assert_as_expected(cli: Cli, run: str, expected: dict[str, Any], tolerance: float = TOLERANCE) -> None:
    assert_same_metrics(Path(run), expected["metrics"], tolerance)
    predicted = done(cli("predict", run, "photos", "--device", "cpu", "--top", 3, "--format", "csv"))
    assert_same_answers(predicted.out, expected["predict"], tolerance)
    evaluated = done(cli("evaluate", run, "photos", "--device", "cpu", "--json"))
    assert_same_evaluation(json.loads(evaluated.out), expected["evaluate"], tolerance)


@pytest.mark.parametrize("run", [name for name in EXPECTED if " " not in name])
def test_an_old_run_resumes_predicts_evaluates_and_exports(cli: Cli, project: Path, run: str) -> None:
    was_finished = (project / run / "result.json").exists()
    assert was_finished != run.endswith(("-stopped", "-unbegun"))
    done(cli("train", "--resume", "--output", run))
    names = {path.name for path in (project / run).iterdir()}
    assert names >= FINISHED_RUN
    assert run.startswith("freeze") or was_finished or names >= {"checkpoints", "curves.png"}
    tolerance = REFITTED if run == "freeze-unbegun" else TOLERANCE
    assert_as_expected(cli, run, EXPECTED[run], tolerance)
    done(cli("export", run, "--output", "new.onnx"))
    exported = done(cli("predict", "new.onnx", "photos", "--device", "cpu", "--top", 3, "--format", "csv"))
    assert_same_answers(exported.out, EXPECTED[run]["predict"], tolerance)


def test_a_finished_old_run_goes_on_for_longer(cli: Cli, project: Path) -> None:
    done(cli("train", "--resume", "--output", "finetune", "--epochs", 5))
    assert_as_expected(cli, "finetune", EXPECTED["finetune --epochs 5"])


def test_an_old_export_still_answers(cli: Cli, project: Path) -> None:
    answered = done(cli("predict", "freeze/model.onnx", "photos", "--device", "cpu", "--top", 3, "--format", "csv"))
    assert_same_answers(answered.out, EXPECTED["freeze"]["predict"])


def test_old_answers_are_appended_to(cli: Cli, project: Path) -> None:
    before = Path("answers.csv").read_bytes()
    assert before.count(b"\n") == 21, "a header, and two of three classes"
    done(cli("predict", "freeze", "photos", "--device", "cpu", "--output", "answers.csv", "--append"))
    after = Path("answers.csv").read_bytes()
    assert after.startswith(before)
    files = [row["file"] for row in csv.DictReader(io.StringIO(after.decode()))]
    assert files == list(probabilities(EXPECTED["freeze"]["predict"]))


@pytest.mark.parametrize("path", OLD_RECIPES, ids=lambda path: path.stem)
def test_an_old_recipe_is_valid(cli: Cli, path: Path) -> None:
    assert done(cli("recipes", "validate", path)).out.endswith(f"ok, mode {yaml.safe_load(path.read_text())['mode']}\n")


def leaves(path: Path) -> Iterator[tuple[str, Any]]:
    for section, values in yaml.safe_load(path.read_text()).items():
        if isinstance(values, dict):
            yield from ((f"{section}.{key}", value) for key, value in values.items())
        else:
            yield section, values


@pytest.mark.parametrize("path", OLD_RECIPES, ids=lambda path: path.stem)
def test_each_key_of_an_old_recipe_is_heeded_and_may_be_set(path: Path) -> None:
    """A key that were only swallowed would leave the recipe as it is without it, as only the retired ones do."""
    tree = yaml.safe_load(path.read_text())
    whole = recipes.load(path)
    for key, value in leaves(path):
        section, _, leaf = key.partition(".")
        kept = {name: other for name, other in tree.get(section, {}).items() if name != leaf} if leaf else None
        without = {**tree, section: kept} if leaf else {name: tree[name] for name in tree if name != section}
        if key != "mode":  # all the others depend on it
            changes = cnn_tl.Recipe.model_validate(without) != cnn_tl.Recipe.model_validate(tree)
            assert changes == (key not in RETIRED_KEYS), key
        assert recipes.load(path, [f"{key}={json.dumps(value)}"]) == whole, key


def test_every_old_key_stands_in_an_old_recipe() -> None:
    assert {key for path in OLD_RECIPES for key, _ in leaves(path)} == set(INTERFACE["keys"])


@pytest.mark.parametrize("name", INTERFACE["recipes"])
def test_an_old_shipped_recipe_is_still_there(name: str) -> None:
    assert recipes.load(name)


def command(path: str) -> Any:
    found: Any = typer.main.get_command(app.app)
    for name in path.split():
        found = found.commands[name]
    return found


@pytest.mark.parametrize("path", INTERFACE["flags"])
def test_old_flags_are_still_accepted(path: str) -> None:
    options = [option for option in command(path).params if option.param_type_name == "option"]
    assert set(INTERFACE["flags"][path]) <= {name for o in options for name in (*o.opts, *o.secondary_opts)}


def test_the_former_name_of_a_flag_means_the_same(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure(*_: Any, images: int, **__: Any) -> None:
        asked.append(images)
        raise DataError("measured enough")

    monkeypatch.setattr(benchmark, "benchmark", measure)
    told = cli("benchmark", "--pictures", 64)
    assert (told.code, asked) == (3, [64])
    assert "--pictures is called --images now" in told.err


@pytest.mark.parametrize("place", INTERFACE["choices"])
def test_old_choices_of_a_flag_are_still_accepted(place: str) -> None:
    path, _, flag = place.rpartition(" ")
    (option,) = [option for option in command(path).params if flag in option.opts]
    assert set(INTERFACE["choices"][place]) <= set(typing.get_args(option.type_descriptor.annotation))


@pytest.mark.parametrize("function", INTERFACE["keywords"])
def test_old_keywords_of_the_functions_are_still_accepted(function: str) -> None:
    parameters = inspect.signature(getattr(cnn_tl, function)).parameters
    assert set(INTERFACE["keywords"][function]) <= set(parameters)
