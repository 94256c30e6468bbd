"""All that is wrong with a recipe, line by line, for `cnn-tl recipes validate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cnn_tl.core.errors import RecipeError, printable
from cnn_tl.recipe import yaml
from cnn_tl.recipe.cross_key_rules import contradictions
from cnn_tl.recipe.loading import no_mapping, read_text, with_setting, without_empty
from cnn_tl.recipe.messages import choices, fault, nearest_key
from cnn_tl.recipe.recipe import Recipe
from cnn_tl.recipe.settings import KEYS


def faults(source: str | Path) -> list[str]:
    """Return all that is wrong with a recipe, one line each, in the order of its lines: none where `load` takes it.

    Each begins with the file and, where one is to blame, the line, as `mine.yaml:7: train.lrr is not a key ...`.
    """
    try:
        text = read_text(source)
    except RecipeError as error:
        return [str(error)]
    value, lines, found = yaml.parse_all(text, source=str(source))
    if isinstance(value, dict):
        found += [(_line_of(message, lines), message) for message in _faults_of(without_empty(value))]
    elif not found:
        found = [(0, no_mapping(value))]
    where = printable(source)
    return [f"{where}:{line}: {message}" if line else f"{where}: {message}" for line, message in sorted(found)]


def _faults_of(tree: dict[str, Any]) -> list[str]:
    """Return what is wrong with each key by itself, then what contradicts what however those are fixed."""
    messages: list[str] = []
    wrong: list[ErrorDetails] = []
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        messages = [fault(one) for one in wrong]
        for one in wrong:
            tree = _pruned(tree, one["loc"])
        try:
            recipe = Recipe.model_validate(tree)
        except ValidationError:
            return messages
    against = list(contradictions(recipe))
    for one in wrong:
        for recipe in _fixed(tree, one):
            holds = set(contradictions(recipe))
            against = [line for line in against if line in holds]
    if not (messages or against):
        try:
            recipe.resolve()
        except RecipeError as error:
            against = [str(error)]
    return [*messages, *against]


_ANY_VALUE = (1, 8, 0.5, True, False, "fresh", "auto", "balanced", "head", "last-stage", "all", ["last-stage", "all"])
"""Values to try for a setting that is not a choice between words; each setting accepts some of them."""


def _fixed(tree: dict[str, Any], error: ErrorDetails) -> Iterator[Recipe]:
    """Yield recipes in which the key with the error has one valid value after another; a mistyped key is corrected."""
    key: str | None = ".".join(str(part) for part in error["loc"][:2])
    if error["type"] == "extra_forbidden":
        key = nearest_key(str(key))
    for place in [one for one in KEYS if key is not None and (one == key or one.startswith(f"{key}."))]:
        try:
            Recipe.model_validate(with_setting(tree, place, "\0", ""))
            continue
        except ValidationError as refused:
            values = choices(refused.errors(include_url=False)[0]) if refused.error_count() == 1 else []
        for value in {*values} or _ANY_VALUE:
            with suppress(ValidationError):
                yield Recipe.model_validate(with_setting(tree, place, value, ""))


def _pruned(tree: dict[str, Any], place: tuple[int | str, ...]) -> dict[str, Any]:
    """Return a copy without the value at this place; for an item of a list, without the whole list."""
    first, *rest = place
    below = tree.get(str(first))
    if rest and isinstance(below, dict):
        return {**tree, str(first): _pruned(below, tuple(rest))}
    return {key: item for key, item in tree.items() if key != first}


def _line_of(message: str, lines: Mapping[str, int]) -> int:
    """Return the line of the key that a message begins with, or of the section that lacks it; else 0."""
    key = message.partition(" ")[0].rstrip(":")
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 0)
