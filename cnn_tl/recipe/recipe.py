"""A recipe: every setting of a run in one frozen tree, and what it resolves to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from pydantic import BaseModel, Field, ValidationError, model_validator

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe import yaml
from cnn_tl.recipe.data_folders import placed
from cnn_tl.recipe.defaults import (
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
)
from cnn_tl.recipe.explanation import explained
from cnn_tl.recipe.naming import shown
from cnn_tl.recipe.rules import refuse_contradictions, refuse_unreached_phases, sees_one_view, trains_auxiliary
from cnn_tl.recipe.sections import (
    KEYS,
    Augment,
    Data,
    Export,
    Features,
    Head,
    Model,
    Run,
    Section,
    Train,
    with_new_keys,
)
from cnn_tl.recipe.types import Mode


class _InOneLine(type(BaseModel)):  # type: ignore[misc]
    """Lets `Recipe(...)` refuse in our words; what reads a file or a flag knows better where the mistake stands."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise RecipeError(f"recipe: {explained(error)}") from None


class Recipe(Section, metaclass=_InOneLine):
    """Everything that a run depends on; frozen, and every value checked.

        recipe = cnn_tl.Recipe(mode="finetune", data={"path": "photos"}, train={"epochs": 5})

    `cnn-tl recipes schema` lists every section and key; what is left out has the default of the mode.

    Raises:
        RecipeError: an unknown key or a value that cannot be, in one line.
    """

    mode: Mode = Field(
        default="freeze",
        description="freeze: fit a head on a frozen backbone; finetune: train all from pretrained weights; "
        "lp-ft: first the head, then all; auto: the better of lp-ft and freeze; scratch: from nothing.",
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="Decides the split, the order and the augmentation.")
    data: Data = Data()
    model: Model = Model()
    features: Features = Features()
    head: Head = Head()
    train: Train = Train()
    augment: Augment | None = Field(
        default=None, description="How training images are varied; null means the default of the mode."
    )
    run: Run = Run()
    export: Export = Export()

    @model_validator(mode="before")
    @classmethod
    def _read_renamed_keys(cls, tree: Any) -> Any:
        return with_new_keys(tree)

    def resolve(self) -> Recipe:
        """Return the recipe with the mode's defaults filled in; resolving twice changes nothing.

        Raises:
            RecipeError: two settings contradict each other.
        """
        refuse_contradictions(self)
        head = self.head
        if head.kind == "auto" and head.penalty is not None:
            head = head.model_copy(update={"kind": "lbfgs"})  # a penalty is in the units of one kind
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
        if train.epochs is not None:  # else the number of images decides
            refuse_unreached_phases(model, train.epochs)
        parts = {"head": head, "model": model, "features": features, "augment": augment, "train": train}
        return self.model_copy(update={"data": placed(self.data), **parts})

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
        own = self.train.model_dump(exclude_none=True)
        chosen = defaults | own
        options = SCHEDULE_DEFAULTS.get(chosen.get("schedule"), {}) | LOSS_DEFAULTS.get(chosen.get("loss"), {})
        if trains_auxiliary(self):
            options["aux_weight"] = AUX_WEIGHT
        return Train(**defaults | options | own)


_PLACES = (
    *("data.path", "data.train", "data.val", "data.test", "data.keep_images", "data.memory_gb"),
    *("features.cache", "features.budget_gb"),
)
"""Where things lie, which changes nothing that is learned."""


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe so that `load` reads it back equal; settings that are null are left out."""
    return yaml.dump(recipe.model_dump(exclude_none=True))


def diff(before: Recipe, after: Recipe) -> list[str]:
    """Return what differs, as "train.lr: 0.001 -> 0.01"; neither machine nor the place of the data counts."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        f"{key}: {shown(old.get(key))} -> {shown(new.get(key))}"
        for key in KEYS
        if old.get(key) != new.get(key) and key not in _PLACES and not key.startswith("run.")
    ]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _flat(recipe: Recipe) -> Iterator[tuple[str, object]]:
    for key, value in recipe.model_dump().items():
        if isinstance(value, dict):
            yield from ((f"{key}.{leaf}", item) for leaf, item in cast(dict[str, object], value).items())
        else:
            yield key, value
