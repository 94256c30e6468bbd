"""`cnn-tl inspect`: the order of its layers, its forms, and how it refuses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from cnn_tl.cli.app import app

FLAGS = {
    "--mode", "--freeze", "--image-size", "--depth", "--input", "--conv", "--pool", "--fc", "--json", "--csv",
}  # fmt: skip


def test_the_flags_are_exactly_these() -> None:
    command = typer.main.get_command(app).commands["inspect"]  # type: ignore[attr-defined]
    assert {name for p in command.params if p.param_type_name == "option" for name in p.opts} == FLAGS


def test_layers_come_in_the_order_of_the_command_line(cli: Any) -> None:
    words = ["--pool", "2x2", "--conv", "4@3x3 p1", "--fc", "7", "--input", "16x16x3", "--fc=5"]
    done = cli("inspect", *words, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [step["layer"] for step in found["steps"]] == ["pool 2x2", "conv 4@3x3 p1", "fc 7", "fc 5"]
    assert [step["output"] for step in found["steps"]] == [[8, 8, 3], [8, 8, 4], [7], [5]]
    other = cli("inspect", "--input", "16x16x3", "--conv", "4@3x3 p1", "--pool", "2x2", "--conv", "1", "--csv")
    rows = list(csv.DictReader(io.StringIO(other.out)))
    assert [row["layer"] for row in rows] == ["conv 4@3x3 p1", "pool 2x2", "conv 1"]
    assert [row["output"] for row in rows] == ["16x16x4", "8x8x4", "8x8x1"]


def test_an_exercise_as_it_is_printed(cli: Any) -> None:
    done = cli("inspect", "--input", "32x32x3", "--conv", "10@5x5 s1 p2", "--pool", "2x2 s2")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["conv", "10@5x5", "s1", "p2", "32x32x10", "5", "760", "768,000"] in lines
    assert ["pool", "2x2", "s2", "16x16x10", "6"] in lines
    assert "conv 10@5x5 s1 p2: (32 + 2*2 - 5)/1 + 1 = 32; (5*5*3 + 1)*10 = 760 parameters" in done.out
    assert done.err == ""


def test_a_network(cli: Any) -> None:
    done = cli("inspect", "resnet18", "--image-size", "64", "--depth", "1")
    assert done.code == 0, done.err
    assert done.out.startswith("resnet18, 3 x 64 x 64, mode freeze: 513,000 of 11,689,512 parameters train\n")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["conv1", "7x7", "s2", "p3", "64x32x32", "7", "9,408", "9.6", "M", "no"] in lines
    assert ["fc", "1000", "-", "513,000", "512.0", "k", "yes"] in lines
    assert all(len(line) <= 80 for line in done.out.splitlines())


def test_sizes_that_are_rounded_up_say_so(cli: Any) -> None:
    """GoogLeNet's poolings: (112 - 3)/2 + 1 would be 55 by the formula, and is 56."""
    lines = [line.split() for line in cli("inspect", "googlenet", "--depth", "1").out.splitlines()]
    assert ["maxpool1", "3x3", "s2", "ceil", "64x56x56", "11"] in lines
    assert ["maxpool4", "2x2", "s2", "832x7x7", "251"] in lines  # which divides
    layers = {one["name"]: one for one in json.loads(cli("inspect", "googlenet", "--json").out)["layers"]}
    assert layers["maxpool1"]["ceil"] is layers["maxpool4"]["ceil"] is True
    assert layers["conv1.conv"]["ceil"] is layers["fc"]["ceil"] is False


def test_forms_for_machines_say_the_same(cli: Any) -> None:
    words = ["inspect", "test_resnet", "--freeze", "last-stage", "--depth", "0"]
    done = cli(*words, "--json")
    found = json.loads(done.out)
    assert done.err == ""
    assert (found["mode"], found["freeze"]) == ("finetune", "last-stage")
    total = {key: sum(row[key] for row in found["layers"]) for key in found["total"]}
    assert found["total"] == total
    rows = list(csv.DictReader(io.StringIO(cli(*words, "--csv").out)))
    assert [row["name"] for row in rows] == [row["name"] for row in found["layers"]]
    assert sum(int(row["trainable"]) for row in rows) == total["trainable"]


def test_names_and_patterns_of_what_trains(cli: Any) -> None:
    found = json.loads(cli("inspect", "resnet18", "--freeze", "layer4, *.bn1", "--depth", "1", "--json").out)
    states = {row["name"]: row["state"] for row in found["layers"] if row["parameters"]}
    assert states == {"conv1": "frozen", "bn1": "frozen", **dict.fromkeys(("layer1", "layer2", "layer3"), "partly"),
                      "layer4": "trains", "fc": "trains"}  # fmt: skip


def test_a_run_and_its_bundle(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_images: Callable[..., Path], tiny_weights: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "pets", {"cat": 6, "dog": 6, "hen": 6})
    tiny = ("--model", "test_resnet", "--image-size", "64", "--device", "cpu", "--weights", tiny_weights)
    assert cli("train", "pets", *tiny, "--output", "run").code == 0
    by_run, by_bundle = (json.loads(cli("inspect", path, "--json").out) for path in ("run", "run/model"))
    assert by_run == by_bundle
    assert (by_run["model"], by_run["input"], by_run["mode"]) == ("test_resnet", [3, 64, 64], "freeze")
    head = by_run["layers"][-1]
    assert (head["output"], head["state"], head["trainable"]) == ([3], "trains", by_run["total"]["trainable"])
    assert json.loads(cli("inspect", "run", "--mode", "finetune", "--json").out)["mode"] == "finetune"
    bundle = tmp_path / "run" / "model" / "model.safetensors"
    bundle.write_bytes(bundle.read_bytes()[:-1])
    assert cli("inspect", "run").code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "name a model, a run folder or a bundle; or give --input 32x32x3"),
        (["resnt18"], 2, "there is no model 'resnt18'; did you mean resnet18"),
        (["no/such/run"], 4, "does not exist"),
        (["model.onnx"], 4, "does not exist"),
        (["resnet18", "--input", "9x9"], 2, "--input is for layers without a network"),
        (["--conv", "3x3"], 2, "--conv needs --input HxWxC"),
        (["resnet18", "--fc", "3"], 2, "--fc needs --input HxWxC"),
        (["--input", "9x9", "--conv", "3x3 s"], 2, "--conv '3x3 s': '' is not a size"),
        (["--input", "9x9", "--conv", "11x11"], 2, "--conv '11x11': the window covers 11, more than 9"),
        (["--input", "9x9", "--json", "--csv"], 2, "exclude each other"),
        (["resnet18", "--image-size", "0"], 2, "--image-size"),
        (["resnet18", "--depth", "-1"], 2, "--depth"),
        (["resnet18", "--freeze", ""], 2, "--freeze"),
        (["resnet18", "--freeze", "layer9"], 2, "nothing in ResNet is called 'layer9'"),
        (["resnet18", "--freeze", "last-9"], 2, "has 5 stages before its classifier"),
        (["resnet18", "--mode", "freeze", "--freeze", "all"], 2, "mode: freeze"),
        (["x" * 5000], 2, "there is no model"),
    ],
)
def test_a_mistake_is_one_line(cli: Any, arguments: list[str], code: int, said: str) -> None:
    done = cli("inspect", *arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_fits_the_screen(cli: Any, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    from cnn_tl.cli.terminal import console

    monkeypatch.setattr(console.out, "_width", width)
    done = cli("inspect", "test_resnet")
    table = [line for line in done.out.splitlines() if line.startswith(" ")]
    assert len(table) > 10
    assert max(map(len, table)) <= width
    assert ("memory" in done.out) == (width >= 120)
