"""Random command lines: each is refused with one line and its exit code. No traceback, no work started, no torch."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import cnn_tl
from cnn_tl.cli import app

DOOMED: dict[str, list[list[str]]] = {
    "train": [["train"], ["train", "absent"], ["train", "taken"], ["train", "some.txt"]],
    "predict": [["predict", "absent", "absent.jpg"], ["predict", "taken", "taken"], ["predict", "a.onnx", "*.jpg"]],
    "export": [["export"], ["export", "absent"], ["export", "taken"], ["export", "some.txt"]],
    "inspect": [["inspect", "zz-no-such-model"], ["inspect", "absent/run"], ["inspect", "--input", "9", "--fc", "x"]],
    "convolve": [["convolve"], ["convolve", "absent.jpg"], ["convolve", "some.txt"]],
    "models": [["models", "zz-no-such-model"], ["models", "zz*"]],
    "recipes show": [["recipes", "show"], ["recipes", "show", "absent"]],
    "recipes copy": [["recipes", "copy"], ["recipes", "copy", "absent"], ["recipes", "copy", "freeze", "taken"]],
}
"""Command -> first arguments that must fail whatever options follow."""

MISTYPED = [
    "--epoch", "--jsn", "--Mode", "--set=", "--lr=", "--seed=x", "--top=0", "--dry_run", "--no-resume", "-x", "-e3",
    "--", "---", "-", "--mode=[red]", "--\x1b[31m", "--a\nb", "--\udcff", "--" + "x" * 300, "--=",
]  # fmt: skip

WORDS = [
    "", " ", "-1", "0", "1", "3.5", "1e-3", "1e400", "nan", "-inf", "true", "None", "9" * 40, "0x10", "1_000",
    "é", "日本", "\u202e", "\x1b[31m", "\x07", "[red]", "[/]", "{}", "%s", "a\nb", "\udcff", "x" * 300, "a/" * 600,
    "=", "a=b", "seed=", "train.lr", "train.lr=1e-3", "train.lrr=1", "train.lr=-1", "train.epochs=true", "train=3",
    "augment.flip=true", "augment=null", "mode=[", "mode=&a b", "mode=\x1b[31m", "=1", "data.path=absent",
    "model.name=resnet", "model.image_size=7", "run.workers=65", "head.kind=prototype",
    "absent.yaml", "absent.pth", "some.txt", "taken", "absent", "empty.yaml", "~", "[", "absent/*", "*.jpg", "*.txt",
    "cpu", "cuda", "tpu", "freeze", "finetune", "scratch", "json", "csv", "onnx", "resnet", "tf_efficientnet_lite9",
]  # fmt: skip

COMMANDS: dict[str, typer.core.TyperCommand] = typer.main.get_command(app.app).commands  # type: ignore[attr-defined]


def options_of(name: str) -> list[tuple[str, bool]]:
    """Return the spellings of a command's options, and whether each takes a value."""
    command, _, inner = name.partition(" ")
    found = COMMANDS[command].commands[inner] if inner else COMMANDS[command]  # type: ignore[attr-defined]
    return [
        (spelling, not parameter.is_flag)
        for parameter in found.params
        if parameter.param_type_name == "option" and parameter.name != "help"
        for spelling in (*parameter.opts, *parameter.secondary_opts)
    ]


def arguments_for(name: str, chance: random.Random) -> list[str]:
    """Start with arguments that must fail and add up to six options, words and typos."""
    arguments = list(chance.choice(DOOMED[name]))
    options = options_of(name)
    for _ in range(chance.randint(0, 6)):
        kind = chance.random()
        if kind < 0.7 and options:
            spelling, takes_value = chance.choice(options)
            value = [chance.choice(WORDS)] if takes_value and chance.random() < 0.95 else []
            joined = value and chance.random() < 0.3
            arguments += [f"{spelling}={value[0]}"] if joined else [spelling, *value]
        else:
            arguments.append(chance.choice(MISTYPED if kind < 0.85 else WORDS))
    return arguments


def slip_of_the_root(chance: random.Random) -> list[str]:
    """Return an unknown command, or a valid one with arguments that it does not take."""
    unknown = [chance.choice(["trian", "predcit", "recipe", "[red]", "\x1b[31m", "\udcff", "", "a\nb", "é"])]
    slips = [unknown, ["recipes", *unknown], ["--json"], ["--vresion"], ["-v"], ["demo", "--mode", "freeze"]]
    slips += [["demo", "--output", "taken"], ["recipes", "list", "--yaml"], ["recipes", "schema", "me"]]
    return chance.choice(slips)


@pytest.fixture
def _nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a few traps; fail if a download or a training starts."""
    import cnn_tl.training.run
    from cnn_tl.networks.pretrained import hub

    def begun(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.chdir(tmp_path)
    set_traps(tmp_path)
    monkeypatch.setattr(hub, "start_probe", lambda model: None)
    monkeypatch.setattr(hub, "download", begun)
    monkeypatch.setattr(cnn_tl.training.run, "MODES", dict.fromkeys(("freeze", "finetune", "scratch"), begun))


def set_traps(folder: Path) -> None:
    (folder / "taken").mkdir()
    (folder / "taken" / "note.txt").write_text("not a run")
    (folder / "some.txt").write_text("neither weights nor a recipe")
    (folder / "empty.yaml").write_text("")


def run(arguments: list[str]) -> tuple[int, str, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = app.run(arguments)
    return code, out.getvalue(), err.getvalue()


def fuzz(folder: Path, rounds: int) -> None:
    chance = random.Random(8)
    names, codes = list(DOOMED), []
    for number in range(rounds):
        if number % 10 == 9:
            arguments = slip_of_the_root(chance)
        else:
            arguments = arguments_for(chance.choices(names, weights=[6, 3, 1, 2, 2, 1, 1, 1])[0], chance)
        code, out, err = run(arguments)
        told = [line for line in err.split("\n") if line.startswith("error: ")]
        assert code in (2, 3, 4, 5), (arguments, code, err)
        assert len(told) == 1, (arguments, err)
        assert len(told[0]) > len("error: ."), (arguments, err)
        assert told[0].isprintable(), (arguments, told[0])
        assert err.endswith(told[0] + "\n"), (arguments, err)
        assert "Traceback" not in err, (arguments, err)
        assert out == "", (arguments, out)
        codes.append(code)
    assert {2, 3, 4, 5} == set(codes), "every kind of refusal was met"
    assert {path.name for path in folder.rglob("*") if path.is_file()} == {"note.txt", "some.txt", "empty.yaml"}


@pytest.mark.usefixtures("_nothing_begins")
def test_random_command_lines(tmp_path: Path) -> None:
    fuzz(tmp_path, 150)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("_nothing_begins")
def test_random_command_lines_long(tmp_path: Path) -> None:
    fuzz(tmp_path, 2_000)


WRONG: list[Callable[[random.Random], list[str]]] = [
    lambda chance: ["--epochs", chance.choice(["five", "0", "-3", "1e9", ""])],
    lambda chance: ["--lr", chance.choice(["nan", "0", "-1", "inf", "fast"])],
    lambda chance: ["--mode", chance.choice(["frozen", "", "[red]"])],
    lambda chance: ["--set", chance.choice(["train.lrr=1", "train.epochs=5.5", 'seed="5"', "mode", "a.b.c=1"])],
    lambda chance: ["--recipe", chance.choice(["absent.yaml", "freez", "empty.yaml", "some.txt", "taken"])],
    lambda chance: [chance.choice(["--epoch", "-z", "--JSON"])],
]
"""Mistakes that arguments and recipes reveal by themselves, without data, weights or a device."""


def test_wrong_arguments_never_wait_for_torch(tmp_path: Path) -> None:
    """One process runs 60 command lines with a wrong argument and never loads torch."""
    set_traps(tmp_path)
    chance = random.Random(21)
    lists = []
    for _ in range(60):
        extra = [word for word in arguments_for("train", chance)[1:] if word != "--resume" and "\udcff" not in word]
        lists.append(["train", *chance.choice(WRONG)(chance), *extra])
    program = (
        "import json, sys\n"
        "from cnn_tl.cli import app\n"
        "codes = [app.run(arguments) for arguments in json.load(sys.stdin)]\n"
        "heavy = [name for name in ('torch', 'timm', 'sklearn', 'onnx', 'huggingface_hub') if name in sys.modules]\n"
        "print(json.dumps([codes, heavy]))\n"
    )
    source = str(Path(cnn_tl.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(lists), capture_output=True, text=True, check=True,
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": source},
    )  # fmt: skip
    codes, heavy = json.loads(done.stdout)
    assert codes == [2] * 60, done.stderr
    assert heavy == []
    assert done.stderr.count("error: ") == 60
