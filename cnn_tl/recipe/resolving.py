"""From what a user wrote to what a run does: fill in the mode's defaults, and put all data folders below one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe.cross_key_rules import (
    refuse_contradictions,
    refuse_unreached_phases,
    sees_one_view,
    trains_auxiliary,
)
from cnn_tl.recipe.defaults import (
    AUX_WEIGHT,
    DEFAULT_VIEWS,
    HEAD_DEFAULTS,
    LOSS_DEFAULTS,
    MODE_BN,
    POLICY_DEFAULTS,
    SCHEDULE_DEFAULTS,
    mode_train,
)
from cnn_tl.recipe.resolved import RECIPES, FrozenModel, LoopRecipe, ResolvedRecipe
from cnn_tl.recipe.schema import Augment, Data, Section
from cnn_tl.recipe.settings import Settings


def resolve(recipe: Settings) -> ResolvedRecipe:
    """Return what a run does by this recipe.

    Raises:
        RecipeError: two settings contradict each other.
    """
    refuse_contradictions(recipe)
    tree = {
        "mode": recipe.mode,
        "seed": recipe.seed,
        "data": placed(recipe.data),
        **({} if sees_one_view(recipe) else {"augment": _augment(recipe.augment or Augment())}),
        "run": recipe.run,
        "export": recipe.export,
    }
    if recipe.mode in ("freeze", "lp-ft", "auto"):  # otherwise the head is a part of the loop
        tree["head"] = _head(recipe)
    made = RECIPES[recipe.mode].model_validate(tree | (_freeze(recipe) if recipe.mode == "freeze" else _loop(recipe)))
    if isinstance(made, LoopRecipe) and made.train.length.unit == "epochs":  # else the number of images decides
        refuse_unreached_phases(made.model, made.train.length.count)
    return made


def _freeze(recipe: Settings) -> dict[str, Any]:
    return {
        "model": {key: value for key, value in _given(recipe.model).items() if key in FrozenModel.model_fields}
        | {"freeze": "head"},
        "features": {"views": 1} | _given(recipe.features),
        "train": _given(recipe.train),
    }


def _loop(recipe: Settings) -> dict[str, Any]:
    starts_at_random = recipe.mode == "finetune" and recipe.train.head_start == "random"
    model = {"freeze": "all", "bn": "train" if starts_at_random else MODE_BN[recipe.mode]} | _given(recipe.model)
    if "unfreeze" in model:
        model = {"unfreeze_every": 1} | model
    keeps_activations = model["freeze"] != "all" and "unfreeze" not in model
    features = ({"views": DEFAULT_VIEWS} if keeps_activations else {}) | _given(recipe.features)
    return {"model": model, "features": features, "train": _train(recipe)}


def _train(recipe: Settings) -> dict[str, Any]:
    own, defaults = _given(recipe.train), mode_train(recipe.mode, recipe.train.head_start).model_dump()
    if "steps" in own:
        del defaults["epochs"]
    chosen = defaults | own
    options = SCHEDULE_DEFAULTS.get(chosen["schedule"], {}) | LOSS_DEFAULTS.get(chosen["loss"], {})
    if trains_auxiliary(recipe):
        options["aux_weight"] = AUX_WEIGHT
    return defaults | options | own


def _head(recipe: Settings) -> dict[str, Any]:
    own = _given(recipe.head)
    if own["kind"] == "auto" and "penalty" in own:
        own["kind"] = "lbfgs"  # a penalty is in the units of one kind
    return HEAD_DEFAULTS[own["kind"]].model_dump() | own


def _augment(augment: Augment) -> dict[str, Any]:
    return POLICY_DEFAULTS[augment.policy] | _given(augment)


def _given(section: Section) -> dict[str, Any]:
    """Return the settings that are not null."""
    return section.model_dump(exclude_none=True)


def placed(data: Data) -> Data:
    """Return the section with the folders of the splits relative to `path`, which contains all of them.

    As written, a folder is relative to `path`, or to the working directory if `path` is not set.

    Raises:
        RecipeError: a split is named but train is not; or no folder contains all of them.
    """
    given = data.splits
    if not given:
        return data
    if "train" not in given:
        named = next(iter(given))
        raise RecipeError(f"data.{named} needs data.train beside it, the folder to learn from: --set data.train=FOLDER")
    places = {split: os.path.normpath(os.path.join(data.path or "", text)) for split, text in given.items()}  # noqa: PTH118
    common = data.path if data.path is not None else _common_folder([*places.values()])
    if not all(_is_inside(place, common) for place in places.values()):
        common = _common_folder([*places.values()])
    relative: dict[str, str] = {
        split: Path(os.path.relpath(place, common)).as_posix() for split, place in places.items()
    }
    return data.model_copy(update={"path": common, **relative})


def _common_folder(places: list[str]) -> str:
    if len(places) == 1:
        return places[0] if places[0] == os.curdir else os.path.dirname(places[0]) or os.curdir  # noqa: PTH120
    try:
        if len({os.path.isabs(place) for place in places}) > 1:  # noqa: PTH117
            places = [os.path.abspath(place) for place in places]  # noqa: PTH100
        return os.path.commonpath(places) or os.curdir
    except ValueError as error:  # two drives of Windows
        raise RecipeError("data.train, data.val and data.test are on different drives; put them on one") from error


def _is_inside(place: str, folder: str) -> bool:
    return Path(os.path.relpath(place, folder)).parts[:1] != (os.pardir,)
