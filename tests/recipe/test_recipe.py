"""What a recipe resolves to in each mode, its written form, and what differs between two."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from recipe_files import reread

from cnn_tl import recipe
from cnn_tl.core.choices import Mode
from cnn_tl.core.errors import RecipeError
from cnn_tl.data.views.policies import POLICIES
from cnn_tl.recipe import KEYS, Recipe, diff, load, names, to_yaml
from cnn_tl.recipe.defaults import MODE_TRAIN, POLICY_DEFAULTS
from cnn_tl.recipe.resolved import Embedding, Length
from cnn_tl.recipe.settings import SECTIONS
from cnn_tl.recipe.types import AugmentPolicy


def test_the_built_in_defaults_are_the_freeze_recipe() -> None:
    assert load() == load("freeze") == Recipe().resolve()
    assert load().train == Embedding(batch_size=None), "what embeds fastest here, and no loop"
    assert load().augment is None


@pytest.mark.parametrize("mode", get_args(Mode))
def test_each_mode_fills_in_its_defaults(mode: Mode) -> None:
    made = load(flags={"mode": mode})
    assert made.train == (Embedding() if mode == "freeze" else MODE_TRAIN[mode])
    assert (made.augment is None) == (mode == "freeze")
    assert reread(made) == made


def test_settings_of_the_recipe_override_the_defaults() -> None:
    made = Recipe(mode="finetune", train={"lr": 1e-2}, augment={"flip": False}).resolve()
    assert (made.train.lr, made.train.epochs) == (1e-2, 5)
    assert made.augment is not None
    assert (made.augment.flip, made.augment.color) == (False, 0.2)


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("model", ["googlenet", "googlenet.tv_in1k"])
def test_auxiliary_classifiers_have_a_weight_where_they_train(mode: Mode, model: str) -> None:
    made = load(None, [], {"mode": mode, "model.name": model})
    assert made.model_dump()["train"].get("aux_weight") == (None if mode == "freeze" else 0.3)
    assert reread(made) == made
    assert "aux_weight" not in load(None, [], {"mode": mode, "model.name": "resnet18"}).model_dump()["train"]
    if mode == "finetune":
        assert load(None, ["model.freeze=last-2"], {"mode": mode, "model.name": model}).train.aux_weight == 0
        assert load(None, ["train.aux_weight=0"], {"mode": mode, "model.name": model}).train.aux_weight == 0


def test_the_first_stage_of_lp_ft_is_the_recipe_of_mode_freeze() -> None:
    whole = load("lp-ft", ["head.kind=ridge", "model.name=resnet18"], {"seed": 5, "data.path": "images"})
    assert whole.head_only() == load(
        None, ["head.kind=ridge", "model.name=resnet18"], {"seed": 5, "data.path": "images"}
    )


def test_a_length_counts_epochs_or_steps() -> None:
    assert (Length(count=3, unit="epochs").epochs(7), Length(count=3, unit="epochs").steps(7)) == (3, 21)
    assert (Length(count=15, unit="steps").epochs(7), Length(count=15, unit="steps").steps(7)) == (3, 15), (
        "the last epoch is cut short"
    )


def test_a_schedule_brings_its_own_settings() -> None:
    assert load("finetune", ["train.schedule=one-cycle"]).train.warmup == 0.3
    assert load("finetune", ["train.schedule=one-cycle", "train.warmup=0.2"]).train.warmup == 0.2
    assert load("finetune", ["train.schedule=step"]).train.decay_rate == 0.1


def test_a_policy_brings_its_own_settings() -> None:
    made = load("finetune", ["augment.policy=randaugment", "augment.ops=3"])
    assert made.augment is not None
    assert (made.augment.magnitude, made.augment.ops) == (9, 3)
    assert reread(made) == made
    for policy in ("none", "trivialaugment"):
        made = load("finetune", [f"augment.policy={policy}"])
        assert made.augment is not None
        assert not {"magnitude", "ops"} & made.model_dump()["augment"].keys()
    assert set(POLICY_DEFAULTS) == set(get_args(AugmentPolicy)) == set(POLICIES)


@pytest.mark.parametrize("name", names())
def test_to_yaml_reads_back_equal(name: str, tmp_path: Path) -> None:
    flags = {"data.path": "odd \udcff: 1e3\n", "train.batch_size": 7, "seed": 2**63 - 1}
    made = load(name, ["model.name=no", "train.aux_weight=null", "data.val_fraction=1e-5"], flags)
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(made), "utf-8")
    assert load(path) == made


def test_a_path_may_be_a_path() -> None:
    assert Recipe(data={"path": Path("images")}).data.path == "images"
    assert load(flags={"data.path": Path("images")}).data.path == "images"


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().seed = 5  # type: ignore[misc]


def test_diff_names_what_changes_the_result() -> None:
    before = load("finetune")
    changes = ["train.lr=0.01", "augment.flip=false", "run.device=cpu", "data.path=elsewhere"]
    after = load("finetune", changes)
    assert diff(before, after) == ["train.lr: 0.0001 -> 0.01", "augment.flip: true -> false"]
    assert diff(before, before) == []
    assert 'mode: "finetune" -> "freeze"' in diff(before, load("freeze"))
    assert "augment.flip: true -> null" in diff(before, load("freeze"))


def test_every_key_has_a_default_and_one_line_about_it() -> None:
    fields = {"mode": Recipe.model_fields["mode"], "seed": Recipe.model_fields["seed"]}
    for section, model in SECTIONS.items():
        fields |= {f"{section}.{name}": field for name, field in model.model_fields.items()}
    assert list(fields) == KEYS
    for key, field in fields.items():
        assert not field.is_required(), key
        assert field.description, key
        longest = 180 if key == "mode" else 98
        assert re.fullmatch(rf"[A-Za-z].{{8,{longest}}}\.", field.description), key


def test_the_schema_describes_every_section() -> None:
    schema = recipe.json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["$defs"]["Train"]["properties"]["lr"]["description"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "finetun"}, "mode: got \"finetun\", allowed 'freeze', 'finetune'"),
        ({"train": {"epocs": 3}}, "train.epocs is not a key of a recipe; did you mean train.epochs\\?"),
        ({"data": "images"}, 'data: got "images", allowed a section with path, '),
        ({"seed": "1", "mode": 3}, "mode: got 3, allowed .* \\(and 1 more\\)"),
        ({"trian": {}}, "trian is not a key of a recipe; did you mean train\\?"),
    ],
)
def test_a_recipe_made_in_python_is_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^recipe: {message}") as refused:
        Recipe(**settings)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__, "a notebook shows our line, not pydantic's above it"
