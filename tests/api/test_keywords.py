"""Keywords, sections and recipes become one recipe; what is wrong is one line that names the keyword."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cnn_tl
from cnn_tl.api.keywords import recipe_of
from cnn_tl.api.messages import RECIPE_KEYS, in_keywords
from cnn_tl.core.errors import RecipeError, UsageError
from cnn_tl.recipe import Recipe, load, to_yaml

VALUES = {
    "mode": "finetune", "model": "resnet18", "weights": Path("some/weights.pth"), "head": "ridge", "epochs": 7,
    "batch_size": 9, "lr": 0.125, "image_size": 96, "device": "cpu", "workers": 3, "seed": 11,
}  # fmt: skip


def value_of(recipe: Recipe, key: str) -> Any:
    section, _, leaf = key.rpartition(".")
    return getattr(getattr(recipe, section) if section else recipe, leaf)


def test_there_is_a_value_for_each_keyword() -> None:
    assert VALUES.keys() == RECIPE_KEYS.keys()


@pytest.mark.parametrize("name", RECIPE_KEYS)
def test_a_keyword_sets_the_key_that_it_stands_for(name: str) -> None:
    needed = {"mode": "finetune"} if RECIPE_KEYS[name].startswith("train.") else {}
    made = recipe_of("photos", None, needed | {name: VALUES[name]}, {})
    found = value_of(made, RECIPE_KEYS[name])
    assert found == (str(VALUES[name]) if name == "weights" else VALUES[name])
    assert made.data.path == "photos"


def test_keywords_override_sections_and_these_the_recipe(tmp_path: Path) -> None:
    base = Recipe(mode="finetune", train={"epochs": 2, "lr": 0.5, "label_smoothing": 0.3}, data={"path": "there"})
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(load(base)))
    for recipe in (base, path, str(path)):
        made = recipe_of(
            "here", recipe, {"epochs": 5}, {"train": {"epochs": 4, "lr": 0.25}, "augment": {"flip": False}}
        )
        assert (made.data.path, made.train.epochs, made.train.lr, made.train.label_smoothing) == ("here", 5, 0.25, 0.3)
        assert made.augment is not None
        assert not made.augment.flip
    assert recipe_of(base, None, {}, {}) == base.resolve()
    assert recipe_of(base, None, {"seed": 4}, {}).seed == 4


def test_a_model_or_a_head_may_be_a_section() -> None:
    made = recipe_of("x", None, {"model": {"name": "resnet18", "image_size": 64}, "head": {"kind": "knn"}}, {})
    assert (made.model.name, made.model.image_size, made.head.kind) == ("resnet18", 64, "knn")


def test_splits_may_lie_anywhere() -> None:
    made = recipe_of({"train": "here", "val": Path("there")}, None, {}, {})
    assert (made.data.train, made.data.val, made.data.path) == ("here", "there", ".")
    assert recipe_of({"path": "here", "val_fraction": 0.3}, None, {}, {}).data.val_fraction == 0.3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "there is no keyword epoch; did you mean epochs?"),
        ({"nonsense": 3}, r"there is no keyword nonsense; help(cnn_tl.train) lists them"),
        ({"label_smoothing": 0.1}, "there is no keyword label_smoothing; it belongs to a section: "
                                   "train={'label_smoothing': ...}"),
        ({"augment": 3}, "augment: got 3, allowed a dict of settings, such as augment={...}"),
        ({"augment": {"flop": 1}}, "recipe: augment.flop is not a key of a recipe; did you mean augment.flip?"),
    ],
)  # fmt: skip
def test_what_is_no_keyword(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe_of("x", None, {}, given)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "finetun"}, "mode: got \"finetun\", allowed 'freeze'"),
        ({"mode": "finetune", "epochs": "many"}, 'epochs: got "many", allowed'),
        ({"mode": "finetune", "lr": -1}, "lr: got -1, allowed auto, or a number above 0"),
        ({"model": 5}, "model: got 5"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_keyword(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe_of("x", None, given, {})
    assert str(refused.value).startswith(message)


def test_two_recipes_or_data_that_is_no_path() -> None:
    with pytest.raises(RecipeError, match="give one recipe"):
        recipe_of(Recipe(), "freeze", {}, {})
    with pytest.raises(RecipeError, match=r"^data: got 5"):
        recipe_of(5, None, {}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("leave --split out", "leave split out"),
        ("use --mode lp-ft, or another --model", 'use mode="lp-ft", or another model'),
        ("give --weights FILE, or a larger --batch-size", 'give weights="FILE", or a larger batch_size'),
        ("no data, as in cnn-tl train DATA", 'no data, as in cnn_tl.train("photos")'),
        ("stopped: cnn-tl train --resume --output 'a b'", "stopped: cnn_tl.train(output='a b', resume=True)"),
        ("try --set run.precision=fp32", "try run={'precision': 'fp32'}"),
        ("mode: mode: got 3", "mode: got 3"),
        ("recipe: train.lr: got 3", "recipe: train.lr: got 3"),
        ("photos/a--mode.png is damaged", "photos/a--mode.png is damaged"),
        ("use --trace-child", "use --trace-child"),
    ],
)
def test_messages_name_keywords_in_place_of_flags(said: str, told: str) -> None:
    assert in_keywords(said) == told


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cnn_tl.train(quiet=True), 'no data: name a folder of class folders, as in cnn_tl.train("photos")'),
        (lambda: cnn_tl.train("x", 3, quiet=True), "output: got 3, allowed a path"),  # type: ignore[arg-type]
        (lambda: cnn_tl.predict(3, "a.png"), "source: got 3, allowed the path of a model, or the result of train"),  # type: ignore[arg-type]
        (lambda: cnn_tl.evaluate("run", 3), "data: got 3, allowed a path"),  # type: ignore[arg-type]
        (lambda: cnn_tl.lr_find("x", mode="lp-ft"), "mode lp-ft begins with a fitted head; find a learning rate for "
                                                    'mode="finetune"'),
        (lambda: cnn_tl.inspect("resnet18", depth=-1), "depth: got -1, allowed 0 or more"),
        (lambda: cnn_tl.inspect("resnet18", mode="x"), "mode: got \"x\", allowed 'freeze', 'finetune', 'lp-ft', 'auto' "
                                                       "or 'scratch'"),
    ],
)  # fmt: skip
def test_functions_refuse_in_the_words_of_their_keywords(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        call()
    assert str(refused.value) == message
