from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from cnn_tl import recipe
from cnn_tl.core.errors import RecipeError
from cnn_tl.data.views.policies import POLICIES
from cnn_tl.recipe import KEYS, Recipe, ResolvedRecipe, diff, load, names, renamed, text, to_yaml, yaml
from cnn_tl.recipe.defaults import MODE_TRAIN, POLICY_DEFAULTS
from cnn_tl.recipe.resolved import Embedding, Length
from cnn_tl.recipe.settings import SECTIONS
from cnn_tl.recipe.types import AugmentPolicy, Mode

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def file(content: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_bytes(content.encode())
        return path

    return file


def refusal(*arguments: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        load(*arguments)
    message = str(caught.value)
    assert message.isprintable(), "one line"
    return message


def reread(made: ResolvedRecipe) -> ResolvedRecipe:
    """Return the recipe that a run folder would give back."""
    return load(yaml.parse(to_yaml(made), source="recipe.yaml"))


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


def test_what_the_recipe_says_stays_beside_the_defaults() -> None:
    made = Recipe(mode="finetune", train={"lr": 1e-2}, augment={"flip": False}).resolve()
    assert (made.train.lr, made.train.epochs) == (1e-2, 5)
    assert made.augment is not None
    assert (made.augment.flip, made.augment.color) == (False, 0.2)


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


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("model", ["googlenet", "googlenet.tv_in1k"])
def test_auxiliary_classifiers_count_where_they_train(mode: Mode, model: str) -> None:
    made = load(None, [], {"mode": mode, "model.name": model})
    assert made.model_dump()["train"].get("aux_weight") == (None if mode == "freeze" else 0.3)
    assert reread(made) == made
    assert "aux_weight" not in load(None, [], {"mode": mode, "model.name": "resnet18"}).model_dump()["train"]
    if mode == "finetune":
        assert load(None, ["model.freeze=last-2"], {"mode": mode, "model.name": model}).train.aux_weight == 0
        assert load(None, ["train.aux_weight=0"], {"mode": mode, "model.name": model}).train.aux_weight == 0


def test_the_shipped_recipes_are_these() -> None:
    assert names() == sorted([*NETWORKS, "finetune", "freeze", "lp-ft", "scratch"])


def test_flags_are_stronger_than_set_and_set_than_the_file(write: Write) -> None:
    path = write("mode: finetune\nseed: 1\ntrain: {epochs: 2, lr: 1e-3, batch_size: 4}\n")
    made = load(path, ["train.epochs=3", "train.lr=1e-4", "train.lr=1e-5"], {"train.epochs": 7, "seed": None})
    assert (made.seed, made.train.epochs, made.train.lr, made.train.batch_size) == (1, 7, 1e-5, 4)


def test_a_recipe_of_lp_ft_begins_with_one_of_mode_freeze() -> None:
    whole = load("lp-ft", ["head.kind=ridge", "model.name=resnet18"], {"seed": 5, "data.path": "images"})
    assert whole.head_only() == load(
        None, ["head.kind=ridge", "model.name=resnet18"], {"seed": 5, "data.path": "images"}
    )


def test_a_length_counts_epochs_or_steps() -> None:
    assert (Length(count=3, unit="epochs").epochs(7), Length(count=3, unit="epochs").steps(7)) == (3, 21)
    assert (Length(count=15, unit="steps").epochs(7), Length(count=15, unit="steps").steps(7)) == (3, 15), (
        "the last epoch is cut short"
    )


def test_the_stronger_source_says_how_long(write: Write) -> None:
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


def test_a_section_whose_lines_are_all_commented_out_is_no_section(write: Write) -> None:
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
        ("train: {epochs: true}", "train.epochs: got true, allowed a valid integer"),
        ("train: {epochs: 5.5}", "train.epochs: got 5.5, allowed a valid integer"),
        ("train: {epochs: '5'}", 'train.epochs: got "5", allowed a valid integer'),
        ("train: {lr: true}", "train.lr: got true, allowed auto, or a number above 0"),
        ("train: {lr: '1'}", 'train.lr: got "1", allowed auto, or a number above 0'),
        ("train: {lr: .nan}", "train.lr: got NaN, allowed auto, or a number above 0"),
        ("train: {lr: .inf}", "train.lr: got Infinity, allowed auto, or a number above 0"),
        ("train: {lr: 1e999}", "allowed auto, or a number above 0"),
        ("train: {lr: -1}", "train.lr: got -1, allowed auto, or a number above 0"),
        ("train: {lr: 0}", "train.lr: got 0, allowed auto, or a number above 0"),
        ("data: {val_fraction: 0.6}", "allowed less than or equal to 0.5"),
        ("model: {image_size: 7}", "allowed greater than or equal to 8"),
        ("model: {name: 5}", "model.name: got 5, allowed a valid string"),
        ("model: {name: ''}", 'model.name: got "", allowed at least 1 character'),
        ("model: {weights: 5}", "model.weights: got 5, allowed a path as text"),
        ('data: {path: "a\\0b"}', "allowed a path as text"),
        ("augment: {flip: no}", 'augment.flip: got "no", allowed a valid boolean'),
        ("train: 5", "train: got 5, allowed a section with epochs,"),
        ("seed: null", "seed: got null, allowed a valid integer"),
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


def test_errors_of_the_text_carry_their_line(write: Write) -> None:
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
def test_a_source_that_is_no_file_is_refused(missing: str) -> None:
    assert f"is neither a file nor a shipped recipe ({', '.join(names())})" in refusal(missing)


def test_an_impossible_name_is_refused() -> None:
    assert "x cannot be read: " in refusal("x" * 5000) or "x is neither a file" in refusal("x" * 5000)


@pytest.mark.parametrize(
    ("content", "wins", "idle"),
    [
        ("augment: {flip: true}", "features.views: 1", "augment"),
        ("features: {views: fresh}", "head.kind: auto", "features.views: fresh"),
        ("mode: finetune\nfeatures: {views: 2}", "mode: finetune and model.freeze: all", "features.views"),
        ("head: {hidden: 64}", "head.kind: auto", "head.hidden"),
        ("head: {kind: adamw, penalty: 1}", "head.kind: adamw", "head.penalty"),
        ("train: {epochs: 3}", "mode: freeze", "train.epochs"),
        ("train: {lr: 1e-3}", "mode: freeze", "train.lr"),
        ("model: {name: googlenet}\ntrain: {aux_weight: 0.3}", "mode: freeze", "train.aux_weight"),
        ("mode: finetune\ntrain: {aux_weight: 0.3}", "model.name: tf_efficientnet_lite0", "train.aux_weight"),
        (
            "mode: finetune\nmodel: {name: googlenet, freeze: last-2}\ntrain: {aux_weight: 0.3}",
            "model.freeze: last-2",
            "train.aux_weight",
        ),
        ("mode: scratch\nmodel: {weights: a.pth}", "mode: scratch", "model.weights"),
        ("head: {kind: prototype, penalty: 1}", "head.kind: prototype", "head.penalty"),
        ("mode: finetune\naugment: {magnitude: 9}", "augment.policy: none", "augment.magnitude"),
        ("mode: scratch\naugment: {policy: trivialaugment, ops: 2}", "augment.policy: trivialaugment", "augment.ops"),
        ("augment: {mixup: 0.2}", "mode: freeze", "augment.mixup"),
        ("features: {views: 8}\naugment: {cutmix: 1}", "mode: freeze", "augment.cutmix"),
        ("mode: finetune\nmodel: {freeze: last-2}\naugment: {cutmix: 1}", "model.freeze: last-2", "augment.cutmix"),
        ("mode: finetune\ntrain: {batch_size: 1}\naugment: {mixup: 1}", "train.batch_size: 1", "augment.mixup"),
        (
            "mode: finetune\nmodel: {freeze: head}\nfeatures: {views: 2}\naugment: {cutmix: 1}",
            "model.freeze: head",
            "augment.cutmix",
        ),
    ],
)
def test_contradictions_say_which_setting_wins(write: Write, content: str, wins: str, idle: str) -> None:
    message = refusal(write(content))
    assert f"{idle} has no effect with {wins}, which wins: " in message
    assert f"remove {idle.split(':')[0]}" in message or "set features.views to a number" in message


def test_rare_classes_count_more_in_one_way_only(write: Write) -> None:
    both = "mode: finetune\ntrain: {class_weights: balanced, sampling: balanced}"
    assert "train.class_weights: balanced contradicts train.sampling: balanced" in refusal(write(both))
    load(write("mode: finetune\ntrain: {class_weights: {ash: 2}, sampling: balanced}"))


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


@pytest.mark.parametrize(
    "content",
    [
        "mode: finetune\naugment: {mixup: 0.2, cutmix: 1}",
        "mode: scratch\naugment: {mixup: 0.2, cutmix: 1}",
        "mode: finetune\nmodel: {freeze: all}\naugment: {cutmix: 1}",
        "mode: finetune\nmodel: {freeze: last-stage}\nfeatures: {views: fresh}\naugment: {cutmix: 1}",
        "mode: finetune\nmodel: {freeze: last-stage}\nfeatures: {views: fresh}\naugment: {mixup: 0.2}",
        "features: {views: 4}\naugment: {policy: trivialaugment, erasing: 0.25, mixup: 0, cutmix: 0}",
    ],
)
def test_augmentation_that_has_an_effect_is_accepted(write: Write, content: str) -> None:
    made = load(write(content))
    assert reread(made) == made


def test_a_set_contradicts_the_mode_as_a_file_does() -> None:
    assert "train.epochs has no effect" in refusal(None, ["train.epochs=3"])
    assert load(None, ["train.epochs=3"], {"mode": "finetune"}).train.epochs == 3
    assert "model.weights has no effect" in refusal("scratch", [], {"model.weights": "a.pth"})


def test_flags_of_the_training_loop_go_to_an_adamw_head_in_freeze() -> None:
    recipe = load(None, [], {"head.kind": "adamw", "train.epochs": 7, "train.lr": 0.1})
    assert (recipe.head.epochs, recipe.head.lr, recipe.train) == (7, 0.1, Embedding())
    assert "--lr: head.lr: got -1" in refusal(None, [], {"head.kind": "adamw", "train.lr": -1})


def test_flags_of_the_training_loop_are_left_out_in_freeze() -> None:
    made = load(flags={"train.epochs": 3, "train.lr": 0.1, "train.batch_size": 8, "mode": "freeze"})
    assert made.train == Embedding(batch_size=8)
    assert "a number above 0" in refusal(None, [], {"train.lr": -1.0}), "but they are still checked"


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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model: {freeze: head, unfreeze: [last-stage, all]}\ntrain: {epochs: 2}", "all would begin with epoch 3, and"),
        (
            "model: {freeze: head, unfreeze: [all], unfreeze_every: 5}",
            "the run has 5; remove it, or set train.epochs: 6, or a smaller model.unfreeze_every",
        ),
        ("model: {freeze: last-2, unfreeze: [last-stage]}", "last-stage would freeze again what last-2 trains"),
        ("model: {freeze: last-stage, unfreeze: [all, head]}", "head would freeze again what all trains"),
        ("model: {bn: sync}\nrun: {device: cpu}", "model.bn: sync contradicts run.device: cpu"),
    ],
)
def test_phases_and_batchnorm_that_cannot_be_are_refused_without_a_machine(
    write: Write, content: str, said: str
) -> None:
    assert said in refusal(write(f"mode: finetune\n{content}"))


@pytest.mark.parametrize(
    "content",
    [
        "model: {freeze: head, unfreeze: [last-stage, last-2, all]}\ntrain: {epochs: 4}",
        "model: {freeze: norm, unfreeze: [all]}",
        "model: {freeze: [layer4], unfreeze: [last-2]}",
        "model: {freeze: head, unfreeze: [all], unfreeze_every: 9}\ntrain: {steps: 100}",  # the images decide
        "model: {bn: sync}",
    ],
)
def test_phases_that_can_be_are_accepted(write: Write, content: str) -> None:
    made = load(write(f"mode: finetune\n{content}"))
    assert reread(made) == made


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
def test_a_recipe_made_in_python_is_refused_in_one_line_of_ours(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^recipe: {message}") as refused:
        Recipe(**settings)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__, "a notebook shows our line, not pydantic's above it"


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
