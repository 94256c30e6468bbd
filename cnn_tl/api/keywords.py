"""Turn the keywords of a call into a recipe, and refuse values that cannot be, each in one line with its keyword."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, get_args

from cnn_tl.api.messages import RECIPE_KEYS, with_keywords
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import RecipeError, UsageError

if TYPE_CHECKING:
    from cnn_tl.recipe import Recipe, ResolvedRecipe

PathLike: TypeAlias = str | os.PathLike[str]


@with_keywords
def recipe_of(
    data: PathLike | Recipe | ResolvedRecipe | Mapping[str, Any] | None,
    recipe: PathLike | Recipe | ResolvedRecipe | None,
    given: Mapping[str, Any],
    sections: Mapping[str, Any],
) -> ResolvedRecipe:
    """Return the resolved recipe: keywords override sections, which override the recipe.

    Args:
        given: the keywords of `RECIPE_KEYS` that the caller has given; a mapping is a whole section.
        sections: any other keywords: sections of the recipe.

    Raises:
        RecipeError, UsageError: one line that names the keyword.
    """
    from cnn_tl import recipe as recipes
    from cnn_tl.recipe.settings import SECTIONS

    if is_recipe(data):
        if recipe is not None:
            raise RecipeError("give one recipe: either as the first argument, or as recipe=")
        recipe, data = data, None
    if not (recipe is None or is_recipe(recipe) or isinstance(recipe, Mapping)):
        recipe = path_text(recipe, "recipe", "a shipped name, a YAML file or a Recipe")
    if isinstance(data, Mapping):
        sections, data = {"data": data, **sections}, None
    whole = {name: value for name, value in given.items() if isinstance(value, Mapping)} | dict(sections)
    tree = recipes.tree_of(recipe if is_recipe(recipe) else as_text(recipe))
    for name, section in whole.items():
        if name not in SECTIONS:
            raise RecipeError(_unknown_keyword(name))
        if not isinstance(section, Mapping):
            raise RecipeError(f"{name}: got {section!r}, allowed a dict of settings, such as {name}={{...}}")
        tree = {**tree, name: {**(tree.get(name) or {}), **section}}
    keywords = {RECIPE_KEYS[name]: name for name in given} | {"data.path": "data"}
    flags = {RECIPE_KEYS[name]: value for name, value in given.items() if not isinstance(value, Mapping)}
    places = {"data.path": as_text(data), "model.weights": as_text(flags.get("model.weights"))}
    return recipes.load(tree, (), flags | places, named=lambda key: keywords.get(key, key))


def _unknown_keyword(name: str) -> str:
    from cnn_tl.recipe.settings import KEYS, SECTIONS

    places = [key for key in KEYS if key.endswith(f".{name}")]
    if places:
        section = places[-1].partition(".")[0]
        return f"there is no keyword {name}; it belongs to a section: {section}={{{name!r}: ...}}"
    near = difflib.get_close_matches(name, [*RECIPE_KEYS, *SECTIONS, "output", "recipe", "resume", "quiet"], n=1)
    return f"there is no keyword {name}" + (f"; did you mean {near[0]}?" if near else "; help(cnn_tl.train) lists them")


def is_recipe(value: object) -> TypeGuard[Recipe | ResolvedRecipe]:
    """Say whether a recipe was given where a data folder may stand."""
    from cnn_tl.recipe import Recipe, ResolvedRecipe

    return isinstance(value, Recipe | ResolvedRecipe)


def check_values(device: str, **counts: int | None) -> None:
    """Refuse an unknown device and counts below 1 (0 for `workers` and `depth`); None stands for the default.

    Raises:
        UsageError: one line that names the keyword.
    """
    devices = get_args(DeviceName)
    if device not in devices:
        raise UsageError(f"device: got {device!r}, allowed {', '.join(devices)}")
    for name, count in counts.items():
        least = 0 if name in ("workers", "depth") else 1
        if count is not None and count < least:
            raise UsageError(f"{name}: got {count}, allowed {least} or more")


def path_text(path: object, name: str, allowed: str = "a path") -> str:
    """Return a path as text.

    Raises:
        UsageError: it is not a path; one line that names the keyword.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{name}: got {path!r}, allowed {allowed}")
    return os.fsdecode(path)


def as_text(path: Any) -> Any:
    """Return a path as text, and anything else unchanged, which the recipe then refuses."""
    return os.fspath(path) if isinstance(path, os.PathLike) else path
