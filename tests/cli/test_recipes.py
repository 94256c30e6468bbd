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
    assert done.err == "error: freeze.yaml exists and is not overwritten; name another file\n"
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
        "bad.yaml: train.lrr is not a key of a recipe; did you mean train.lr?",
        "scratch: ok, mode scratch",
        f"absent.yaml is neither a file nor a shipped recipe ({NAMES})",
    ]
    assert cli("recipes", "validate", "good.yaml", "scratch").code == 0


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
