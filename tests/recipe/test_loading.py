"""Recipes from files, shipped ones, --set and flags: which overrides which, and what is refused."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_files import Write, refusal

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe import load, names, renamed, text, to_yaml
from cnn_tl.recipe.resolved import Embedding, Length
from cnn_tl.recipe.validation import faults

NETWORKS = {"lenet5": "lenet5", "vgg": "vgg11", "googlenet": "googlenet", "resnet": "resnet18"}


@pytest.mark.parametrize("name", names())
def test_shipped_recipes_load_and_begin_with_their_command(name: str) -> None:
    assert text(name).startswith(f"# cnn-tl train DATA --recipe {name}\n# ")
    assert "\n# expect: 0." in text(name) or name == "vgg"
    if name in NETWORKS:
        assert load(name).model.name == NETWORKS[name]
        assert load(name, [], {"mode": "scratch"}).mode == "scratch", "from random weights too"
    else:
        assert load(name).mode == name
        assert load(name) == load(flags={"mode": name}), "a shipped recipe spells out the defaults of its mode"


def test_the_shipped_recipes_are_these() -> None:
    assert names() == sorted([*NETWORKS, "finetune", "freeze", "lp-ft", "scratch"])


def test_flags_override_set_which_overrides_the_file(write: Write) -> None:
    path = write("mode: finetune\nseed: 1\ntrain: {epochs: 2, lr: 1e-3, batch_size: 4}\n")
    made = load(path, ["train.epochs=3", "train.lr=1e-4", "train.lr=1e-5"], {"train.epochs": 7, "seed": None})
    assert (made.seed, made.train.epochs, made.train.lr, made.train.batch_size) == (1, 7, 1e-5, 4)


def test_the_overriding_source_decides_the_length(write: Write) -> None:
    assert load("finetune", ["train.steps=3"]).train.length == Length(count=3, unit="steps")
    assert load(write("mode: finetune\ntrain: {steps: 7}\n"), ["train.epochs=2"]).train.length == Length(
        count=2, unit="epochs"
    )
    by_flag = load(write("mode: finetune\ntrain: {steps: 7}\n"), flags={"train.epochs": 4})
    assert (by_flag.train.epochs, by_flag.train.steps) == (4, None)
    assert load("finetune", ["train.steps=3"], {"train.epochs": 4}).train.epochs == 4
    by_mode = load(None, ["train.steps=3"], {"mode": "finetune", "train.epochs": 4})
    assert (by_mode.train.epochs, by_mode.train.steps) == (4, None)
    with pytest.raises(RecipeError, match=r"train\.epochs: got -1"):
        load(write("mode: finetune\ntrain: {epochs: -1}\n"), ["train.steps=3"])
    for path, overrides in [
        (write("mode: finetune\ntrain: {steps: 7, epochs: 2}\n"), []),
        ("finetune", ["train.steps=3", "train.epochs=2"]),
    ]:
        with pytest.raises(RecipeError, match="both say how long"):
            load(path, overrides)


def test_set_reads_its_value_as_yaml() -> None:
    made = load("finetune", ["model.name=no", "augment={flip: false}", "data.path=a=b", "train.epochs="])
    assert (made.model.name, made.data.path, made.train.epochs) == ("no", "a=b", 5)
    assert made.augment is not None
    assert made.augment.flip is False


def test_a_section_with_every_line_commented_out_is_ignored(write: Write) -> None:
    assert load(write("mode: finetune\ntrain:\n  # lr: 1e-3\naugment:\n")) == load("finetune")


def test_a_file_may_have_a_byte_order_mark_and_windows_lines(write: Write) -> None:
    assert load(write("\ufeffmode: finetune\r\nseed: 3\r\n")).seed == 3


def test_a_file_beside_a_shipped_name_needs_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("freeze").write_text("seed: 5")
    assert load("freeze").seed == 0
    assert load("./freeze").seed == 5
    assert load(Path("freeze")).seed == 5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; a recipe is a mapping"),
        ("# only a comment", "is empty"),
        ("- 1", "holds [1]; a recipe is a mapping"),
        ("5", "holds 5"),
        ("train: {lrr: 1}", "train.lrr is not a key of a recipe; did you mean train.lr?"),
        ("lr: 1", "lr is not a key of a recipe; did you mean train.lr?"),
        ("mdoe: freeze", "mdoe is not a key of a recipe; did you mean mode?"),
        ("trian: {lr: 1}", "trian is not a key of a recipe; did you mean train?"),
        (
            "head: {zzz: 1}",
            "head.zzz is not a key of a recipe; known here: kind, class_weights, penalty, hidden, "
            "dropout, label_smoothing, epochs, batch_size, lr, weight_decay, neighbours",
        ),
        ("train.lr: 1", "train.lr is written in two lines: train: and, indented below it, lr: ..."),
        ("train: {epochs: true}", "train.epochs: got true, allowed a whole number"),
        ("train: {epochs: 5.5}", "train.epochs: got 5.5, allowed a whole number"),
        ("train: {epochs: '5'}", 'train.epochs: got "5", allowed a whole number'),
        ("train: {lr: true}", "train.lr: got true, allowed auto, or a number above 0"),
        ("train: {lr: '1'}", 'train.lr: got "1", allowed auto, or a number above 0'),
        ("train: {lr: .nan}", "train.lr: got NaN, allowed auto, or a number above 0"),
        ("train: {lr: .inf}", "train.lr: got Infinity, allowed auto, or a number above 0"),
        ("train: {lr: 1e999}", "allowed auto, or a number above 0"),
        ("train: {lr: -1}", "train.lr: got -1, allowed auto, or a number above 0"),
        ("train: {lr: 0}", "train.lr: got 0, allowed auto, or a number above 0"),
        ("data: {val_fraction: 0.6}", "allowed less than or equal to 0.5"),
        ("model: {image_size: 7}", "allowed greater than or equal to 8"),
        ("model: {name: 5}", "model.name: got 5, allowed text"),
        ("model: {name: ''}", 'model.name: got "", allowed at least 1 character'),
        ("model: {weights: 5}", "model.weights: got 5, allowed a path as text"),
        ('data: {path: "a\\0b"}', "allowed a path as text"),
        ("augment: {flip: no}", 'augment.flip: got "no", allowed true or false'),
        ("train: 5", "train: got 5, allowed a section with epochs,"),
        ("seed: null", "seed: got null, allowed a whole number"),
        ("mode: Freeze", "mode: got \"Freeze\", allowed 'freeze', 'finetune', 'lp-ft', 'auto' or 'scratch'"),
        ("seed: x\nmode: y", "(and 1 more)"),
        ("seed: " + "x" * 500, "xxx..., allowed"),
    ],
)
def test_a_file_is_refused_with_key_value_and_range(write: Write, content: str, message: str) -> None:
    path = write(content)
    found = refusal(path)
    assert found.startswith(f"{path}: ")
    assert message in found


def test_syntax_errors_name_their_line(write: Write) -> None:
    path = write("mode: freeze\nseed: 1\nseed: 2\n")
    assert refusal(path).startswith(f"{path}:3: ")
    path.write_bytes(b"mode: freeze\nseed: \xff")
    assert refusal(path) == f"{path}:2: not UTF-8 text; save it as UTF-8"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "write it as section.key=value"),
        ("=1", "write it as section.key=value"),
        ("train.lrr=1", "train.lrr is not a key of a recipe; did you mean train.lr?"),
        ("a.b.c=1", "a.b.c is not a key of a recipe"),
        ("train.lr.x=1", "train.lr.x is not a key of a recipe"),
        ("train.lr=fast", 'train.lr: got "fast", allowed auto, or a number above 0'),
        ("train.lr=[1", "]', but got the end"),
        ("train.lr=a: b: c", "'train.lr=a: b: c': mapping values are not allowed here"),
        ("seed=!!python/name:os.system", "tags such as !!python/name:os.system are not read"),
    ],
)
def test_a_set_is_refused_by_its_own_text(override: str, message: str) -> None:
    found = refusal("finetune", [override])
    assert found.startswith(f"--set {shlex.quote(override)}: ")
    assert message in found


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"train.lr": -1.0}, "--lr: train.lr: got -1.0, allowed auto, or a number above 0"),
        ({"model.image_size": 3}, "--image-size: model.image_size: got 3"),
        ({"model.name": ""}, "--model: model.name"),
        ({"data.path": ""}, "DATA: data.path"),
    ],
)
def test_a_flag_is_refused_by_its_name(flags: dict[str, object], message: str) -> None:
    assert refusal(None, [], flags).startswith(message)


@pytest.mark.parametrize("missing", ["nowhere.yaml", ".", "/dev/null", "a\0b", ""])
def test_a_missing_source_is_refused(missing: str) -> None:
    assert f"is neither a file nor a shipped recipe ({', '.join(names())})" in refusal(missing)


def test_an_impossible_name_is_refused() -> None:
    assert "x cannot be read: " in refusal("x" * 5000) or "x is neither a file" in refusal("x" * 5000)


def test_flags_of_the_training_loop_go_to_an_adamw_head_in_freeze() -> None:
    recipe = load(None, [], {"head.kind": "adamw", "train.epochs": 7, "train.lr": 0.1})
    assert (recipe.head.epochs, recipe.head.lr, recipe.train) == (7, 0.1, Embedding())
    assert "--lr: head.lr: got -1" in refusal(None, [], {"head.kind": "adamw", "train.lr": -1})


def test_flags_of_the_training_loop_are_left_out_in_freeze() -> None:
    made = load(flags={"train.epochs": 3, "train.lr": 0.1, "train.batch_size": 8, "mode": "freeze"})
    assert made.train == Embedding(batch_size=8)
    assert "a number above 0" in refusal(None, [], {"train.lr": -1.0}), "but they are still checked"


def test_unknown_shipped_name() -> None:
    with pytest.raises(RecipeError, match="no shipped recipe is called frieze; there are finetune,"):
        text("frieze")


def test_loading_a_recipe_loads_no_heavy_library() -> None:
    heavy = {"torch", "timm", "sklearn", "numpy"}
    code = f"import sys, cnn_tl.recipe as r; r.load('finetune'); print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("tensorboard", ("tensorboard",)),
        ("[wandb, tensorboard, wandb]", ("tensorboard", "wandb")),
        ("[]", ()),
    ],
)
def test_trackers_are_a_list_or_one_name(write: Write, text: str, names: tuple[str, ...]) -> None:
    made = load(overrides=[f"run.track={text}"])
    assert made.run.track == names
    assert load(write(to_yaml(made))) == made


@pytest.mark.parametrize("text", ["comet", "[tensorboard, 3]", "[[wandb]]", "true", ""])
def test_an_unknown_tracker_is_refused_with_the_known_ones(text: str) -> None:
    assert "tensorboard, mlflow and wandb" in refusal(None, [f"run.track={text}"])


def test_a_key_of_an_earlier_version_is_read_and_named(write: Write) -> None:
    path = write("mode: finetune\ndata:\n  keep_pictures: false\n")
    assert load(path).data.keep_images is False
    assert load("finetune", ["data.keep_pictures=false"]).data.keep_images is False
    now = "data.keep_pictures is now called data.keep_images; the earlier name still works"
    assert list(renamed(path)) == [f"{path}:3: {now}"]
    for override in ("data.keep_pictures=false", "data={keep_pictures: false}"):
        assert list(renamed(None, ["seed=1", override])) == [f"--set: {now}"]
    assert list(renamed("finetune", ["data.keep_images=false"])) == []
    assert "keep_pictures" not in to_yaml(load(path))
    assert load(path, ["data.keep_images=true"]).data.keep_images is True
    assert load(path, flags={"data.keep_images": True}).data.keep_images is True


def test_a_key_that_has_gone_is_read_ignored_and_named(write: Write) -> None:
    path = write("mode: finetune\nrun:\n  workers: 2\n  augment: device\n")
    assert load(path) == load("finetune", ["run.workers=2"])
    gone = "run.augment no longer has an effect: run.sources decides where views are drawn; remove it"
    assert list(renamed(path)) == [f"{path}:4: {gone}"]
    for override in ("run.augment=anything", "run={augment: threads}"):
        assert load("finetune", [override]) == load("finetune")
        assert list(renamed("finetune", [override])) == [f"--set: {gone}"]
    assert "augment" not in to_yaml(load(path)).partition("run:")[2]


def test_a_key_under_both_its_names_is_refused(write: Write) -> None:
    path = write("mode: finetune\ndata:\n  keep_pictures: true\n  keep_images: false\n")
    refused = "data.keep_pictures is not a key of a recipe; did you mean data.keep_images?"
    assert refused in refusal(path)
    assert f"{path}:3: {refused}" in faults(path)
