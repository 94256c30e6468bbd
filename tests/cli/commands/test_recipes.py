from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
NAMES = "finetune, freeze, googlenet, lenet5, lp-ft, resnet, scratch, vgg"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_list_names_every_recipe(cli: Cli) -> None:
    done = cli("recipes", "list")
    assert done.code == 0
    assert all(name in done.out for name in ("finetune", "freeze", "scratch"))


def test_list_as_json(cli: Cli) -> None:
    done = cli("recipes", "list", "--json")
    rows = json.loads(done.out)
    assert [row["name"] for row in rows] == NAMES.split(", ")
    assert all(row["command"] == f"cnn-tl train DATA --recipe {row['name']}" for row in rows)
    assert all(row["what"] for row in rows)


def test_show_prints_the_file_with_its_comments(cli: Cli) -> None:
    from cnn_tl import recipe

    assert cli("recipes", "show", "finetune").out == recipe.text("finetune")


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_recipe_on_a_narrow_screen_is_the_same_recipe(cli: Cli, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from cnn_tl import recipe
    from cnn_tl.cli.terminal import console

    monkeypatch.setattr(console, "breaks_lines", lambda _: True)
    monkeypatch.setattr(console.out, "_width", width)
    for name in recipe.names():
        text = cli("recipes", "show", name).out
        assert max(map(len, text.splitlines())) <= width
        assert text.replace("\n# ", " ").split() == recipe.text(name).replace("\n# ", " ").split()
        Path("shown.yaml").write_text(text)
        assert recipe.load("shown.yaml") == recipe.load(name)


def test_show_of_an_unknown_name_lists_the_known_ones(cli: Cli) -> None:
    done = cli("recipes", "show", "frieze")
    assert (done.code, done.out) == (2, "")
    assert done.err == f"error: no shipped recipe is called frieze; there are {NAMES}\n"


@pytest.mark.parametrize(("arguments", "file"), [((), "freeze.yaml"), (("sub/my.yaml",), "sub/my.yaml")])
def test_copy_writes_a_file_that_validates(cli: Cli, arguments: tuple[str, ...], file: str) -> None:
    from cnn_tl import recipe

    done = cli("recipes", "copy", "freeze", *arguments)
    assert done.code == 0
    assert f"--recipe {file}" in done.out
    assert Path(file).read_text("utf-8") == recipe.text("freeze")
    assert cli("recipes", "validate", file).code == 0


def test_copy_never_overwrites(cli: Cli) -> None:
    Path("freeze.yaml").write_text("mine")
    done = cli("recipes", "copy", "freeze")
    assert done.code == 5
    assert done.err == "error: freeze.yaml exists; name another file\n"
    assert Path("freeze.yaml").read_text() == "mine"


def test_copy_does_not_write_through_a_dangling_link(cli: Cli) -> None:
    Path("freeze.yaml").symlink_to("elsewhere")
    assert cli("recipes", "copy", "freeze").code == 5
    assert not Path("elsewhere").exists()


def test_validate_gives_one_line_for_each_file(cli: Cli) -> None:
    Path("good.yaml").write_text("mode: finetune\n")
    Path("bad.yaml").write_text("mode: finetune\ntrain: {lrr: 1e-3}\n")
    done = cli("recipes", "validate", "good.yaml", "bad.yaml", "scratch", "absent.yaml")
    assert done.code == 2
    assert done.out.splitlines() == [
        "good.yaml: ok, mode finetune",
        "bad.yaml:2: train.lrr is not a key of a recipe; did you mean train.lr?",
        "scratch: ok, mode scratch",
        f"absent.yaml is neither a file nor a shipped recipe ({NAMES})",
    ]
    assert cli("recipes", "validate", "good.yaml", "scratch").code == 0


WRONG = {
    "mode: finetune\nseed: many\ntrain:\n  lrr: 1\n  epochs: 0\n": [
        '2: seed: got "many"', "4: train.lrr is not a key of a recipe", "5: train.epochs: got 0",
    ],
    "mode: frieze\nmodel: {name: !x y}\ndata: 5\nmode: freeze\n": [
        "2: tags such as !x", "3: data: got 5, allowed a section", "4: the key mode is here twice, first on line 1",
    ],
    "mode: lp-ft\ntrain:\n  epochs: 3\n  steps: 4\n  head_start: fitted\nhead: {kind: knn}\nfoo: 1\n": [
        "4: train.steps: 4 contradicts train.epochs: 3", "5: train.head_start has no effect",
        "6: head.kind: knn contradicts mode: lp-ft", "7: foo is not a key",
    ],
    "mode: freeze\ntrain: {lr: 1, epochs: 2}\nmodel:\n  unfreeze: [all]\n  bn: train\ntrain: {sampling: 3}\n": [
        "2: train.epochs has no effect", "2: train.lr has no effect", "4: model.unfreeze contradicts",
        "5: model.bn: train has no effect", "6: the key train is here twice, first on line 2",
        "6: train.sampling: got 3",
    ],
    "mode: fintune\naugment: {flip: false}\ntrain: {epochs: 2, class_weights: balanced, sampling: balanced}\n": [
        '1: mode: got "fintune", allowed \'freeze\', \'finetune\'',
    ],
    "mode: freeze\nhead: {kind: ridg, neighbours: 3}\naugment: {policy: rand}\nfeatures: {viewz: 8}\n": [
        '2: head.kind: got "ridg"', '3: augment.policy: got "rand"', "4: features.viewz is not a key",
    ],
    "mode: finetune\ntrain: {schedul: step, decay_rate: 0.5, steps: 4, epochs: 3}\n": [
        "2: train.schedul is not a key", "2: train.steps: 4 contradicts train.epochs: 3",
    ],
    "train:\n\tlr: 1\n": ["2: indented with a tab"],
    "mode: [\n": ["2: expected the node content"],
    "": [" is empty; a recipe is a mapping"],
    "3": [" holds 3; a recipe is a mapping"],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG.items(), ids=range(len(WRONG)))
def test_validate_prints_every_fault_with_its_line(cli: Cli, text: str, expected: list[str]) -> None:
    Path("bad.yaml").write_text(text)
    done = cli("recipes", "validate", "bad.yaml")
    assert (done.code, done.err) == (2, "")
    lines = done.out.splitlines()
    assert len(lines) == len(expected)
    for line, begins in zip(sorted(lines), sorted(f"bad.yaml:{text}" for text in expected), strict=True):
        assert line.startswith(begins)
    order = [line for line in lines if line.split(":")[1].isdecimal()]
    assert order == sorted(order, key=lambda line: int(line.split(":")[1]))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("mode: fintune", "finetune"),
        ("mode: Freeze", "freeze"),
        ("head: {kind: prototpye}", "prototype"),
        ("model: {freeze: last-stag}", "last-stage"),
        ("train: {lr: atuo}", "auto"),
        ("run: {track: tensorbord}", "tensorboard"),
    ],
)
def test_a_mistyped_word_gets_the_one_that_is_meant(text: str, meant: str) -> None:
    from cnn_tl import recipe

    Path("bad.yaml").write_text(text)
    (fault,) = recipe.faults("bad.yaml")
    assert fault.endswith(f"; did you mean {meant}?")


def test_validate_and_load_agree_on_what_is_a_recipe(cli: Cli) -> None:
    from cnn_tl import recipe
    from cnn_tl.core.errors import RecipeError

    for text in WRONG:
        Path("bad.yaml").write_text(text)
        with pytest.raises(RecipeError):
            recipe.load("bad.yaml")
    for name in recipe.names():
        assert recipe.faults(name) == []
    Path("phases.yaml").write_text("mode: finetune\nmodel: {freeze: head, unfreeze: [all]}\ntrain: {epochs: 1}\n")
    assert recipe.faults("phases.yaml")
    assert "would begin with epoch 2" in recipe.faults("phases.yaml")[0]


def test_validate_asks_timm_for_a_rare_optimiser(cli: Cli) -> None:
    for optimizer in ("adamx", "kron", "lamb"):
        Path(f"{optimizer}.yaml").write_text(f"mode: finetune\ntrain: {{optimizer: {optimizer}}}\n")
    done = cli("recipes", "validate", "adamx.yaml", "lamb.yaml", "kron.yaml")
    assert done.code == 2
    unknown, known, random = done.out.splitlines()
    assert unknown.startswith("adamx.yaml: train.optimizer: timm has no optimiser called adamx; it has adamw")
    assert known == "lamb.yaml: ok, mode finetune"
    assert random.startswith("kron.yaml: train.optimizer: kron draws random numbers of its own")


def test_schema_is_json(cli: Cli) -> None:
    assert json.loads(cli("recipes", "schema").out)["title"] == "Recipe"
