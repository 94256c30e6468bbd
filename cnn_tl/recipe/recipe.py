"""A recipe as a user writes it: every setting of a run in one frozen tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe import yaml
from cnn_tl.recipe.messages import explained, shown
from cnn_tl.recipe.resolved import ResolvedRecipe
from cnn_tl.recipe.resolving import resolve
from cnn_tl.recipe.settings import KEYS, Settings


class _InOneLine(type(BaseModel)):  # type: ignore[misc]
    """Makes `Recipe(...)` raise one line of ours; `load` instead names the file or flag of the mistake."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise RecipeError(f"recipe: {explained(error)}") from None


class Recipe(Settings, metaclass=_InOneLine):
    """Everything that a run depends on; frozen, and every value checked.

        recipe = cnn_tl.Recipe(mode="finetune", data={"path": "photos"}, train={"epochs": 5})

    `cnn-tl recipes schema` lists every section and key. What is left out or null has the default of the mode, which
    `resolve` fills in.

    Raises:
        RecipeError: an unknown key or an impossible value, in one line.
    """

    def resolve(self) -> ResolvedRecipe:
        """Return what a run does by this recipe: the mode's defaults filled in.

        Raises:
            RecipeError: two settings contradict each other.
        """
        return resolve(self)


_PLACES = (
    *("data.path", "data.train", "data.val", "data.test", "data.keep_images", "data.memory_gb"),
    *("features.cache", "features.budget_gb"),
)
"""Where files are, which changes nothing that is learned."""


def to_yaml(recipe: Recipe | ResolvedRecipe) -> str:
    """Write a recipe so that `load` reads it back equal; settings that are null are omitted."""
    return yaml.dump(recipe.model_dump(exclude_none=True))


def diff(before: ResolvedRecipe, after: ResolvedRecipe) -> list[str]:
    """Return what differs, as "train.lr: 0.001 -> 0.01"; the machine and the location of files do not count."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        f"{key}: {shown(old.get(key))} -> {shown(new.get(key))}"
        for key in KEYS
        if old.get(key) != new.get(key) and key not in _PLACES and not key.startswith("run.")
    ]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _flat(recipe: ResolvedRecipe) -> Iterator[tuple[str, object]]:
    for key, value in recipe.model_dump().items():
        if isinstance(value, dict):
            yield from ((f"{key}.{leaf}", item) for leaf, item in cast(dict[str, object], value).items())
        else:
            yield key, value
