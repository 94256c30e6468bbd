"""The recipe: one tree of settings that alone says what a run does.

Strength rises from the recipe file over `--set section.key=value` to the flags. `resolve` fills in what the
mode leaves open; the result is written into the run folder, and resuming reads only that.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from cnn_tl import recipe_yaml
from cnn_tl.errors import RecipeError, printable
from cnn_tl.recipe_rules import refuse_contradictions, refuse_unreached_phases, sees_one_view, trains_auxiliary
from cnn_tl.recipe_sections import (
    AUX_WEIGHT,
    DEFAULT_VIEWS,
    HEAD_DEFAULTS,
    LOSS_DEFAULTS,
    MODE_BN,
    MODE_FREEZE,
    MODE_TRAIN,
    POLICY_DEFAULTS,
    RANDOM_HEAD_TRAIN,
    SCHEDULE_DEFAULTS,
    SECTIONS,
    WITHOUT_MEANING_IN_FREEZE,
    Augment,
    Data,
    Export,
    Features,
    Head,
    Model,
    Run,
    Section,
    Train,
)  # fmt: skip
from cnn_tl.recipe_types import Mode


class Recipe(Section):
    """Everything that a run depends on; frozen, and every value checked."""

    mode: Mode = Field(
        default="freeze",
        description="freeze: fit a head on a frozen backbone; finetune: train all from pretrained weights; "
        "lp-ft: first the head, then all; auto: the better of lp-ft and freeze; scratch: from nothing.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**63 - 1, description="Decides the split, the order and the augmentation."
    )
    data: Data = Data()
    model: Model = Model()
    features: Features = Features()
    head: Head = Head()
    train: Train = Train()
    augment: Augment | None = Field(
        default=None, description="How training pictures are varied; null means the default of the mode."
    )
    run: Run = Run()
    export: Export = Export()

    def resolve(self) -> Recipe:
        """Return the recipe with the mode's defaults filled in; resolving twice changes nothing.

        Raises:
            RecipeError: two settings contradict each other.
        """
        refuse_contradictions(self)
        head = self.head
        if self.mode not in ("finetune", "scratch"):  # whose head is part of the loop
            head = HEAD_DEFAULTS[head.kind].model_copy(update=head.model_dump(exclude_none=True))
        every = self.model.unfreeze_every or (1 if self.model.unfreeze else None)
        model = self.model.model_copy(
            update={
                "freeze": self.model.freeze or MODE_FREEZE[self.mode],
                "unfreeze_every": every,
                "bn": self.model.bn or ("train" if self._starts_at_random else MODE_BN[self.mode]),
            }
        )
        views = 1 if self.mode == "freeze" else None if model.freeze == "all" or model.unfreeze else DEFAULT_VIEWS
        features = self.features.model_copy(update={"views": self.features.views or views})
        augment = None if sees_one_view(self) else self.augment or Augment()
        if augment is not None:
            chosen = augment.model_dump(exclude_none=True)
            augment = augment.model_copy(update=POLICY_DEFAULTS[augment.policy] | chosen)
        train = self._resolved_train()
        if train.epochs is not None:  # else the number of pictures decides
            refuse_unreached_phases(model, train.epochs)
        parts = {"head": head, "model": model, "features": features, "augment": augment, "train": train}
        return self.model_copy(update=parts)

    @property
    def own_train(self) -> Train:
        """What `train` means where the recipe says nothing."""
        return RANDOM_HEAD_TRAIN if self._starts_at_random else MODE_TRAIN[self.mode]

    @property
    def _starts_at_random(self) -> bool:
        """Whether fine-tuning is to start under a random head."""
        return self.mode == "finetune" and self.train.head_start == "random"

    def _resolved_train(self) -> Train:
        defaults = self.own_train.model_dump(exclude_none=True)
        if self.train.steps is not None:
            defaults.pop("epochs", None)  # one of the two says how long
        chosen = defaults | self.train.model_dump(exclude_none=True)
        options = SCHEDULE_DEFAULTS.get(chosen.get("schedule"), {}) | LOSS_DEFAULTS.get(chosen.get("loss"), {})
        if trains_auxiliary(self):
            options["aux_weight"] = AUX_WEIGHT
        return Train(**options | chosen)

KEYS = ["mode", "seed", *(f"{name}.{key}" for name in SECTIONS for key in SECTIONS[name].model_fields)]
"""The dotted name of every setting."""

FLAGS_OF_A_LOOP = ("train.epochs", "train.lr")
"""What an adamw head takes from the command line in place of the training loop that mode freeze does not have."""

_PLACES = ("data.path", "data.keep_pictures", "data.memory_gb", "features.cache", "features.budget_gb")
"""Where things lie, which changes nothing that is learned."""


def load(
    source: str | Path | None = None, overrides: Sequence[str] = (), flags: Mapping[str, object] | None = None
) -> Recipe:
    """Read a recipe and return it resolved.

    Args:
        source: the name of a shipped recipe or a YAML file; None starts from the defaults.
        overrides: texts like "train.lr=1e-3", stronger than the file.
        flags: dotted key -> value, stronger still; None means that the flag was not given. In mode freeze the
            flags of the training loop go to an adamw head, which has one of its own; with another head they are
            left out, not refused: one command line can try every mode.

    Raises:
        RecipeError: one line with the file, the `--set` or the flag, the key, the value and what is allowed.
    """
    tree = {} if source is None else _read_tree(source)
    name = "recipe" if source is None else printable(source)
    recipe = _validated(tree, name)
    for text in overrides:
        key, equals, value = text.partition("=")
        origin = f"--set {shlex.quote(printable(_shortened(text)))}"  # colons of its own must not run into ours
        if not (equals and key.strip()):
            raise RecipeError(f"{origin}: write it as section.key=value")
        tree = _with(tree, key.strip(), recipe_yaml.parse(value, source=origin, numbered="\n" in value), origin)
        recipe = _validated(tree, origin)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    deciding = ("mode", "head.kind")  # what the other flags mean depends on these
    for key in sorted(given, key=lambda key: key not in deciding):
        loop_in_head = recipe.mode == "freeze" and recipe.head.kind == "adamw" and key in FLAGS_OF_A_LOOP
        place = f"head.{key.partition('.')[2]}" if loop_in_head else key
        stronger = _with(tree, place, given[key], _flag(key))
        checked = _validated(stronger, _flag(key))
        if not (recipe.mode == "freeze" and place in WITHOUT_MEANING_IN_FREEZE):
            tree, recipe = stronger, checked
    try:
        return recipe.resolve()
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None


def names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def text(name: str) -> str:
    """Return the YAML of a shipped recipe, comments included.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in names():
        known = ", ".join(names())
        raise RecipeError(f"no shipped recipe is called {printable(_shortened(name))}; there are {known}")
    return (_folder() / f"{name}.yaml").read_text("utf-8")


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe so that `load` reads it back equal; settings that are null are left out."""
    return recipe_yaml.dump(recipe.model_dump(exclude_none=True))


def diff(before: Recipe, after: Recipe) -> list[str]:
    """Return what differs, as "train.lr: 0.001 -> 0.01"; neither machine nor the place of the data counts."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in KEYS
        if old.get(key) != new.get(key) and key not in _PLACES and not key.startswith("run.")
    ]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _folder() -> Path:
    """Return where the shipped recipes are: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    installed = here / "_recipes"
    return installed if installed.is_dir() else here.parent / "recipes"


def _read_tree(source: str | Path) -> dict[str, Any]:
    value = recipe_yaml.parse(_read_text(source), source=str(source))
    if not isinstance(value, dict):
        what = "is empty" if value is None else f"holds {_shown(value)}"
        raise RecipeError(f"{printable(source)}: {what}; a recipe is a mapping that begins like mode: freeze")
    # a section whose lines are all commented out is no section
    return {key: item for key, item in value.items() if not (item is None and key in SECTIONS)}


def _read_text(source: str | Path) -> str:
    where = printable(source)
    if isinstance(source, str) and source in names():
        return text(source)
    try:
        if not Path(source).is_file():
            raise RecipeError(f"{where} is neither a file nor a shipped recipe ({', '.join(names())})")
        with Path(source).open("rb") as stream:
            return stream.read(recipe_yaml.MAX_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{where}:{line}: not UTF-8 text") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{where} cannot be read: {reason}") from error


def _with(tree: Mapping[str, Any], key: str, value: object, origin: str) -> dict[str, Any]:
    """Return a copy of the tree in which the dotted key has another value."""
    if key not in KEYS and key not in SECTIONS:
        raise RecipeError(f"{origin}: {_unknown(key)}")
    section, dot, leaf = key.partition(".")
    if dot:
        value = {**(tree.get(section) or {}), leaf: value}
    return {**tree, section: value}


def _validated(tree: Mapping[str, Any], origin: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        more = f" (and {len(others)} more)" if others else ""
        raise RecipeError(f"{origin}: {_explained(first)}{more}") from None


def _explained(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    if error["type"] == "model_type":
        allowed = f"a section with {_listed(SECTIONS[key].model_fields)}"
    else:
        allowed = error["msg"].removeprefix("Input should be ").removeprefix("String should have ")
    return f"{key}: got {_shown(error['input'])}, allowed {allowed}"


def _unknown(key: str) -> str:
    """Say that there is no such key, and name the one whose last part is nearest."""
    section, _, leaf = key.rpartition(".")
    if key in KEYS and section:  # written flat, at the top of a file
        return f"{key} is written in two lines: {section}: and, indented below it, {leaf}: ..."
    leaves = {name.rpartition(".")[2]: name for name in [*SECTIONS, *KEYS]}
    near = difflib.get_close_matches(leaf, leaves, n=1)
    known = _listed(SECTIONS.get(section, Recipe).model_fields)
    hint = f"did you mean {leaves[near[0]]}?" if near else f"known here: {known}"
    return f"{printable(_shortened(key))} is not a key of a recipe; {hint}"


def _listed(names: Iterable[str], most: int = 12) -> str:
    """Name what there is, as far as a line goes."""
    first, rest = list(names)[:most], list(names)[most:]
    return ", ".join(first) + (f" and {len(rest)} more (cnn-tl recipes schema)" if rest else "")


def _flag(key: str) -> str:
    named = {"data.path": "DATA", "model.name": "--model", "head.kind": "--head"}
    return named.get(key) or "--" + key.rpartition(".")[2].replace("_", "-")


def _flat(recipe: Recipe) -> Iterator[tuple[str, object]]:
    for key, value in recipe.model_dump().items():
        if isinstance(value, dict):
            yield from ((f"{key}.{leaf}", item) for leaf, item in cast(dict[str, object], value).items())
        else:
            yield key, value


def _shown(value: object) -> str:
    return _shortened(json.dumps(value, default=str))


def _shortened(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
