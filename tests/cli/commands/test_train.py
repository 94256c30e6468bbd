"""`cnn-tl train`: its flags, their strength, what it prints, and how it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from cnn_tl.cli.app import app
from cnn_tl.core.device import DeviceName
from cnn_tl.recipe.schema import Run
from cnn_tl.training.checkpoints import digests

FLAGS = {
    "--mode", "--recipe", "--set", "--model", "--weights", "--head", "--epochs", "--batch-size", "--lr", "--image-size",
    "--device", "--workers", "--seed", "--output", "--resume", "--dry-run", "--json",
}  # fmt: skip
TINY = ("--model", "test_resnet", "--image-size", "64", "--device", "cpu")
MakeImages = Callable[..., Path]


@pytest.fixture
def data(tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "pets", {"cat": 10, "dog": 10})
    return "pets"


def test_the_flags_are_exactly_these() -> None:
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    found = {name for p in command.params if p.param_type_name == "option" for name in p.opts}
    assert found == FLAGS


def test_the_devices_are_those_of_the_recipe() -> None:
    assert get_args(DeviceName) == get_args(Run.model_fields["device"].annotation)


def test_a_key_of_an_earlier_version_is_noted_where_a_user_wrote_it(cli: Any, data: str, tiny_weights: Path) -> None:
    now = "data.keep_pictures is now called data.keep_images"
    Path("mine.yaml").write_text("data: {keep_pictures: false}\n")
    command = ("train", data, *TINY, "--weights", tiny_weights, "--output", "run")
    done = cli(*command, "--recipe", "mine.yaml")
    assert done.code == 0
    assert f"mine.yaml:1: {now}" in done.err
    recipe = Path("run/recipe.yaml")
    digests.write(recipe, recipe.read_text().replace("keep_images", "keep_pictures"))
    resumed = cli("train", "--resume", "--output", "run")
    assert resumed.code == 0
    assert now not in resumed.err
    dry = cli("train", data, *TINY, "--weights", tiny_weights, "--set", "data.keep_pictures=true", "--dry-run")
    assert f"--set: {now}" in dry.err
    assert cli("recipes", "validate", "mine.yaml").err.startswith(f"mine.yaml:1: {now}")


def test_flags_are_stronger_than_set_and_set_than_the_recipe(cli: Any, data: str, tiny_weights: Path) -> None:
    Path("mine.yaml").write_text("mode: finetune\ntrain: {epochs: 2, batch_size: 4, lr: 1e-5}\nseed: 9\n")
    outcome = cli(
        "train", data, *TINY, "--weights", tiny_weights, "--recipe", "mine.yaml", "--set", "train.epochs=3",
        "--set", "train.batch_size=2", "--batch-size", "8", "--dry-run", "--json",
    )  # fmt: skip
    assert outcome.code == 0
    plan = json.loads(outcome.out)
    assert plan["mode"] == "finetune"
    assert plan["schedule"] == "3 epochs, 6 steps of up to 8, peak learning rate 1e-05"
    assert plan["counts"]["cat"] == {"train": 8, "val": 2, "test": 0}
    assert not Path("runs").exists()


def test_a_whole_run_then_its_result_again(cli: Any, data: str, tiny_weights: Path) -> None:
    outcome = cli("train", data, *TINY, "--weights", tiny_weights, "--epochs", "5", "--json")
    assert outcome.code == 0
    result = json.loads(outcome.out)
    assert result["run"] == "runs/pets-freeze"
    assert result["images"] == 4
    assert "--epochs has no effect: the head (auto) is fitted, not trained" in outcome.err

    again = cli("train", "--resume")
    assert again.code == 0
    assert again.err.splitlines()[0] == "no run here is unfinished; the newest finished one is runs/pets-freeze"
    assert "has finished already" in again.err
    for said in ("validation accuracy", "95% interval", "majority-class baseline", "of 4 images"):
        assert said in again.out
    assert "cnn-tl predict runs/pets-freeze IMAGES..." in again.out
    assert "cnn-tl export runs/pets-freeze" in again.out

    refused = cli("train", data, *TINY, "--weights", tiny_weights, "--output", "runs/pets-freeze")
    assert refused.code == 5
    assert "holds another run" in refused.err
    changed = cli("train", "--resume", "--output", "runs/pets-freeze", "--seed", "3")
    assert changed.code == 2
    assert "seed: 0 -> 3" in changed.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--dry-run"], 2, "--resume continues a run that has been planned already; leave out --resume or --dry-run"),
        (["--mode", "freeze"], 2, "runs/a is a run of mode scratch, which cannot change; leave out --mode freeze"),
        (["--epochs", "9"], 2, "runs/a lasts 7 steps, not epochs; leave out --epochs, or make it"),
    ],
)
def test_what_a_run_cannot_become(cli: Any, data: str, arguments: list[str], code: int, said: str) -> None:
    digests.write(Path("runs/a/recipe.yaml"), "mode: scratch\ndata: {path: pets}\ntrain: {steps: 7}\n")
    outcome = cli("train", "--resume", "--output", "runs/a", *arguments)
    assert outcome.code == code
    assert f"error: {said}" in outcome.err
    assert outcome.err.count("\n") == 1


def test_no_run_of_that_kind(cli: Any, data: str) -> None:
    outcome = cli("train", data, "--resume", "--mode", "scratch")
    assert outcome.err == ("error: there is no run of pets in mode scratch to resume here; name it with --output RUN\n")


def test_a_truncated_recipe_is_one_line(cli: Any, data: str, tiny_weights: Path) -> None:
    assert cli("train", data, *TINY, "--weights", tiny_weights).code == 0
    recipe = Path("runs/pets-freeze/recipe.yaml")
    recipe.write_bytes(recipe.read_bytes()[:40])
    outcome = cli("train", "--resume")
    assert outcome.code == 4
    [line] = lines(outcome)
    assert line.startswith("error: runs/pets-freeze/recipe.yaml has changed since the run wrote it; restore it")
    assert outcome.err.count("\n") == 1


def set_traps() -> None:
    """Write beside the good folder those of cases 1 and 4 to 8, and recipes of cases 46 and 47."""
    folders = {"empty": "", "lonely/cat": "01", "hollow/cat": "01", "hollow/dog": "", "loose/cat": "01"}
    folders |= {"single/cat": "01", "single/dog": "0", "loose/dog": "01", "loose": "0"}
    for folder, numbers in folders.items():
        Path(folder).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            shutil.copy(f"pets/{'cat' if 'cat' in folder else 'dog'}/{number}.png", folder)
    Path("pets.zip").write_bytes(b"PK\x03\x04")
    Path("unknown.yaml").write_text("train:\n  lrr: 0.1\n")
    Path("tagged.yaml").write_text("train:\n  lr: !!python/name:os.system\n")


def lines(outcome: Any) -> list[str]:
    return [line for line in outcome.err.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere"], 3, "nowhere"),
        (["pets/cat/0.png"], 3, "0.png"),
        (["empty"], 3, "no class folders"),
        (["pets.zip"], 3, "unpack it first"),
        (["lonely"], 3, "only one class, cat"),
        (["hollow"], 3, "dog"),
        (["single"], 3, "dog"),
        (["loose"], 3, "0.png"),
        ([], 2, "no data"),
        (["pets", "--model", "resnet81"], 2, "resnet18"),
        (["pets", "--mode", "scratch", "--model", "vit_tiny_patch16_224", "--image-size", "8"], 2, "8 x 8"),
        (["pets", "--weights", "pets/cat/0.png"], 4, "0.png"),
        (["pets", "--weights", "absent.pth"], 4, "absent.pth"),
        (["pets", "--lr", "-1"], 2, "--lr"),
        (["pets", "--lr", "nan"], 2, "--lr"),
        (["pets", "--lr", "inf"], 2, "--lr"),
        (["pets", "--set", "train.lr=.inf"], 2, "train.lr: got"),
        (["pets", "--set", "train.lr=0"], 2, "train.lr: got 0, allowed auto, or a number above 0"),
        (["pets", "--epochs", "0"], 2, "--epochs"),
        (["pets", "--set", "train.epochs=true"], 2, "train.epochs: got true, allowed a whole number"),
        (["pets", "--set", "train.epochs=5.5"], 2, "train.epochs: got 5.5, allowed a whole number"),
        (["pets", "--set", 'train.epochs="5"'], 2, 'train.epochs: got "5", allowed a whole number'),
        (["pets", "--set", "model.name=no"], 2, "there is no model 'no'"),
        (["pets", "--set", "seed=!!python/object:os.system"], 2, "--set 'seed=!!python/object:os.system': tags such"),
        (["pets", "--set", "train.lr=a: b: c"], 2, "--set 'train.lr=a: b: c': mapping values are not allowed here"),
        (["pets", "--set", "train.lr=[1"], 2, "--set 'train.lr=[1': expected ',' or ']', but got the end"),
        (["pets", "--recipe", "unknown.yaml"], 2, "unknown.yaml: train.lrr is not a key of a recipe; did you mean"),
        (["pets", "--recipe", "tagged.yaml"], 2, "tagged.yaml:2"),
        (["pets", "--set", "train.epochz=3"], 2, "train.epochs"),
        (["pets", "--set", "epochs"], 2, "section.key=value"),
        (["pets", "--set", "augment.flip=true"], 2, "augment"),
        (["pets", "--mode", "scratch", "--weights", "x.pth"], 2, "scratch"),
        (["pets", "--recipe", "freez"], 2, "freeze"),
        (["pets", "--output", "pets/cat"], 2, "inside the data folder"),
        (["pets", "--output", "pets.zip"], 5, "is a file"),
        (["pets", "--resume", "--output", "absent"], 4, "nothing to resume"),
        (["pets", "--resume"], 4, "there is no run of pets to resume here"),
    ],
)
def test_a_mistake_is_one_line_with_its_code(cli: Any, data: str, arguments: list[str], code: int, said: str) -> None:
    set_traps()
    outcome = cli("train", *arguments)
    assert outcome.code == code, outcome.err
    [line] = lines(outcome)
    assert said in line
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--mode", "nosuch"], "error: Invalid value for '--mode': 'nosuch' is not one of 'freeze', 'finetune', "),
        (["--epochs", "many"], "error: Invalid value for '--epochs': it must be a whole number"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(cli: Any, data: str, words: list[str], line: str) -> None:
    outcome = cli("train", data, *words)
    assert outcome.code == 2
    assert lines(outcome)[0].startswith(line)


def test_cuda_where_there_is_none(cli: Any, data: str) -> None:
    outcome = cli("train", data, "--device", "cuda")
    assert outcome.code == 5
    assert "device cuda is not available here" in lines(outcome)[0]
